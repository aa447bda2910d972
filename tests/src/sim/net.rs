//! The connections of a world, and the two ends of each.
//!
//! An end that is closed stays closed. Either side may learn of a cut long before the other does.
//!
//! Opened by `client`, accepted by `server`, cut by `faults`.

use super::pipe::Pipe;

/// A connection.
#[derive(Debug)]
pub(super) struct Conn {
    pub(super) to_server: Pipe,
    pub(super) to_client: Pipe,
    pub(super) client_open: bool,
    pub(super) server_open: bool,
    /// The server memory that accepted its Hello: all that is said over it is said by that memory.
    pub(super) memory: Option<usize>,
    /// The memory that answers what the server asks over it.
    pub(super) reverse: Option<usize>,
}

/// All connections that there ever were.
#[derive(Debug, Default)]
pub(super) struct Net {
    pub(super) conns: Vec<Conn>,
    /// Dialled and not yet accepted, in the order of the dials.
    pub(super) backlog: Vec<usize>,
    /// Whether somebody listens.
    pub(super) listens: bool,
}

impl Net {
    /// Dials. `None`: nobody listens.
    pub(super) fn dial(&mut self, capacity: usize) -> Option<usize> {
        if !self.listens {
            return None;
        }
        self.conns.push(Conn {
            to_server: Pipe::new(capacity),
            to_client: Pipe::new(capacity),
            client_open: true,
            server_open: true,
            memory: None,
            reverse: None,
        });
        let conn = self.conns.len() - 1;
        self.backlog.push(conn);
        Some(conn)
    }

    /// The client's end is closed. The server reads what is there, and notices at `notice`.
    pub(super) fn close_client(&mut self, conn: usize, notice: u64) {
        let conn = &mut self.conns[conn];
        if std::mem::take(&mut conn.client_open) {
            conn.to_server.close_writer();
            conn.to_client.close_reader(notice);
        }
    }

    /// The server's end is closed. The client reads what is there, and notices at `notice`.
    pub(super) fn close_server(&mut self, conn: usize, notice: u64) {
        let conn = &mut self.conns[conn];
        if std::mem::take(&mut conn.server_open) {
            conn.to_client.close_writer();
            conn.to_server.close_reader(notice);
        }
    }
}
