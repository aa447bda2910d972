//! The lane rules as a model that a checker explores whole: fence, floor, local proof, resolve, loss, drain, park.
//!
//! One client lane, one server at a time with its memory, connections as queues of whole frames that may be lost from any
//! point on; the two ends of a connection notice its loss at different times. There is no clock: whatever a timer may do,
//! may happen at any moment. Never the code of `rpc` itself, which the simulator drives: the model shows that the *rules*
//! suffice, and, by defects planted one at a time, that each of them is needed.
//!
//! Not in the model: cancel on the wire, streams, permits, parts of frames (a part is no frame), a client that restarts (it
//! comes back as another lane), several lanes (they share nothing that the rules speak of).
//!
//! A lane may be forgotten at any moment at which nothing runs, nobody is connected and no older Hello is unread. So it
//! covers the lane that is kept for a stated time as well as the one whose client said that it is done and which goes at
//! once: the clock, and epoch 1, only make sure that there is no such Hello.
//!
//! `config` bounds a run, `state` is the world, `client` and `server` are the two halves of the rules, `model` lists what may
//! happen, `properties` says what must hold, `check` explores; `rules` and `defects` are the tests.

mod check;
mod client;
mod config;
mod defects;
mod model;
mod properties;
mod rules;
mod server;
mod state;
