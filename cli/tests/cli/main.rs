//! The `pod` program, as people and programs use it: through its arguments, its output and its exit codes.
//!
//! Each test has a root of its own. Every process is bounded, and ended with its test.

mod asking;
mod bad_input;
mod demo;
mod frames;
mod help;
mod keeping;
mod looking;
mod operations;
mod pages;
mod running;
mod serving;
mod steering;
mod talking;
mod terminal;
mod watching;
mod world;
