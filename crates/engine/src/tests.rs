//! The engine at its boundary: commands in, effects out.

mod consuming;
mod declaring;
mod plain;
mod publishing;
mod random;
mod recovering;
mod settling;
mod world;
