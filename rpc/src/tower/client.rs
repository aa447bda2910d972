//! A client as a tower service: one implementation for each request of its protocol.
//!
//! Adds nothing to a call. Readiness reserves no place.
//!
//! Over `client`.

use std::task::{Context, Poll};

use tower_service::Service;

use crate::client::{Call, Client};
use crate::outcome::CallError;
use crate::request::{Has, Request};

impl<P: Has<R>, R: Request> Service<R> for Client<P> {
    type Response = R::Ack;
    type Error = CallError<R>;
    type Future = Call<R>;

    /// Ready when the window has room. Never an error: what keeps a call from being sent is the call's to say.
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.poll_room(cx).map(Ok)
    }

    fn call(&mut self, request: R) -> Call<R> {
        Self::call(self, request)
    }
}

impl<P: Has<R>, R: Request> Service<R> for &Client<P> {
    type Response = R::Ack;
    type Error = CallError<R>;
    type Future = Call<R>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.poll_room(cx).map(Ok)
    }

    fn call(&mut self, request: R) -> Call<R> {
        Client::call(self, request)
    }
}
