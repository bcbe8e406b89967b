//! A model of the world around the coordinator, and two drivers over it: every order of events in a small world
//! (`exhaustive`), and whole nodes in a world at random (`simulation`). What runs in both is the product's own
//! code: its protocol floor in the one, all of its coordinator in the other.

mod exhaustive;
mod simulation;
mod world;
