//! What the embedded log promises beyond the contract.

mod bounds;
mod crash;
mod home;
