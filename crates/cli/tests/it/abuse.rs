//! Clients that take all they can get. Whatever they do, the broker's memory stays bounded, their
//! neighbours hardly notice, and nothing of theirs is left when they are gone.
//!
//! These tests measure, so they take turns, and each has a broker of its own. The figures they
//! measure are printed. They need Linux, which says how large a process is.

mod channels;
mod client;
mod connections;
mod disk;
mod fair;
mod footprint;
mod full;
mod hog;
mod home;
mod neighbour;
mod reader;
mod scene;
