//! MariaDB and MySQL.
