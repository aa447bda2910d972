//! What goes wrong: cuts at any byte that one side sees first, stalls, repeats, dying processes.
//!
//! Only what a kernel, an operator or a bad library can do; never a byte changed. Each fault is counted.
//!
//! Let loose by `world` between two steps; as often as `knobs` says.

use super::client::Client;
use super::env::Env;
use super::net::Net;
use super::server::{Phase, Server};

/// Perhaps something goes wrong now.
pub(super) fn strike(env: &mut Env, net: &mut Net, server: &mut Server, clients: &mut [Client]) {
    let at = env.random.index(clients.len());
    let client = &mut clients[at];
    // A cut matters most when something is on its way: then two connections of a lane are read at once.
    let held_up = client.conn().is_some_and(|conn| net.conns[conn].to_server.is_held_up(env.now));
    if env.random.per_mille(env.knobs.cut * if held_up { 8 } else { 1 }) {
        cut(env, net, server, client);
    }
    if env.random.per_mille(env.knobs.stall) {
        stall(env, net, client);
    }
    if env.random.per_mille(env.knobs.duplicate) {
        client.duplicate(env, net);
    }
    let rare = |env: &mut Env, share: u64| env.random.below(10_000) < share;
    if rare(env, env.knobs.mute)
        && let Some(conn) = client.conn()
    {
        env.coverage.hit("fault: mute");
        let until = env.now + env.random.between(10_000, 60_000);
        env.trace(|| format!("fault: client {at} reads nothing until {until}"));
        net.conns[conn].to_client.freeze(until);
    }
    if rare(env, env.knobs.client_crash) {
        env.coverage.hit("fault: client crash");
        client.crash(env, net);
    }
    if rare(env, env.knobs.client_close) {
        env.coverage.hit("fault: client close");
        client.close(env, net);
    }
    if server.phase == Phase::Serving {
        if rare(env, env.knobs.server_crash) {
            env.coverage.hit("fault: server crash");
            let notice = env.now + env.random.choose(&[(2, 0), (1, 2_000)]);
            let until = env.now + env.random.choose(&[(2, 0), (2, 1_500), (1, 8_000)]);
            server.crash(env, net, notice, until);
        } else if rare(env, env.knobs.drain) {
            env.coverage.hit("fault: drain");
            let until = env.now + env.random.between(0, 12_000);
            server.drain(env, until);
        }
    }
}

/// A connection is cut: behind any byte, in either direction, and not seen by both at once.
fn cut(env: &mut Env, net: &mut Net, server: &mut Server, client: &mut Client) {
    let Some(conn) = client.conn() else { return };
    let late = |env: &mut Env| env.now + env.random.choose(&[(3, 0), (3, 1_000), (3, 6_000), (1, 50_000)]);
    let (to_server, to_client) = (late(env), late(env));
    let pipes = &mut net.conns[conn];
    for pipe in [&mut pipes.to_server, &mut pipes.to_client] {
        if pipe.len() > 0 && env.random.per_mille(500) {
            env.coverage.hit("fault: cut within a frame");
            let keep = env.random.index(pipe.len());
            pipe.cut(keep);
        }
    }
    let first = env.random.choose(&[(3, "client"), (2, "server"), (1, "both")]);
    match first {
        // What waits to be accepted has no end at the server that could notice anything.
        _ if first == "client" || !server.drives(conn) => {
            env.coverage.hit("fault: cut, client first");
            env.trace(|| format!("fault: connection {conn} is cut, the server sees it at {to_server}"));
            pipes.to_server.freeze(to_server);
            client.cut(env, net, to_server);
        }
        "server" => {
            env.coverage.hit("fault: cut, server first");
            env.trace(|| format!("fault: connection {conn} is cut, the client sees it at {to_client}"));
            pipes.to_client.freeze(to_client);
            server.cut(env, net, conn, to_client);
        }
        _ => {
            env.coverage.hit("fault: cut, both");
            env.trace(|| format!("fault: connection {conn} is cut"));
            server.cut(env, net, conn, env.now);
            client.cut(env, net, env.now);
        }
    }
}

/// One direction stands still for a while.
fn stall(env: &mut Env, net: &mut Net, client: &Client) {
    let Some(conn) = client.conn() else { return };
    env.coverage.hit("fault: stall");
    let until = env.now + env.random.choose(&[(3, 800), (2, 5_000), (1, 25_000)]);
    let to_server = env.random.per_mille(600);
    env.trace(|| format!("fault: connection {conn} stalls until {until}, to the server: {to_server}"));
    let conn = &mut net.conns[conn];
    if to_server { conn.to_server.freeze(until) } else { conn.to_client.freeze(until) }
}
