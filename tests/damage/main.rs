//! Damage of every kind to every kind of object: `verify` names the object and exactly what is missed, no restore gives out a wrong
//! byte, and a restore that goes on over damage brings back everything else.
#![allow(missing_docs)]

#[path = "../common/stored.rs"]
mod stored;

mod flips;
mod keep_going;
mod matrix;
mod oracle;
mod read_back;
mod scene;
mod transient;
