//! Tests that need real servers. They fail, and never skip, where a server is missing.

mod database;
