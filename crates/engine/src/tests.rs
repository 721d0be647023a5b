//! The engine at its boundary: commands in, effects out.

mod arguments;
mod cold;
mod consuming;
mod dead_letters;
mod declaring;
mod expiring;
mod growing;
mod hostile;
mod overflow;
mod packs;
mod plain;
mod priorities;
mod publishing;
mod quorum;
mod random;
mod recovering;
mod replies;
mod routing;
mod settling;
mod spilling;
mod tools;
mod transactions;
mod unbinding;
mod world;
