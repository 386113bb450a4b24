//! One connection, made anew when it is broken.

use std::{
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};

use redis::{Connection, RedisError};

use super::server::{Fault, Server};

/// A connection that was idle for longer is tried with a `PING` before it is relied on.
const TRUSTED_IDLE: Duration = Duration::from_secs(1);

/// After a connection could not be made, the next try within this time fails at once: so nobody who
/// asks a Redis that is away waits for it in a row.
const REST: Duration = Duration::from_millis(250);

/// A connection to Redis, or none at the moment.
pub(crate) struct Link {
    server: Arc<Server>,
    connection: Option<Connection>,
    used: Instant,
    /// When the last connect failed, and why.
    failed: Option<(Instant, Outage)>,
}

/// Redis did not do what it was asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outage {
    /// Which kind of failure.
    pub fault: Fault,
    /// What the client library says.
    pub detail: String,
}

impl Outage {
    pub(crate) fn of(error: &RedisError) -> Self {
        // Answers of a server are foreign text.
        let detail: String = error.to_string().chars().take(300).collect();
        Self {
            fault: Fault::of(error),
            detail,
        }
    }
}

impl fmt::Display for Outage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.fault.remedy(), self.detail)
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link")
            .field("server", &self.server)
            .field("connected", &self.connection.is_some())
            .finish_non_exhaustive()
    }
}

impl Link {
    pub(super) fn new(server: Arc<Server>) -> Self {
        Self {
            server,
            connection: None,
            used: Instant::now(),
            failed: None,
        }
    }

    /// Runs `work` on a connection; each of its answers may take as long as `timeout`. A connection
    /// on which anything failed is thrown away.
    pub(crate) fn run<T>(
        &mut self,
        timeout: Duration,
        work: impl FnOnce(&mut Connection) -> Result<T, RedisError>,
    ) -> Result<T, Outage> {
        let mut connection = self.connected()?;
        let done = connection
            .set_read_timeout(Some(timeout))
            .and_then(|()| connection.set_write_timeout(Some(timeout)))
            .and_then(|()| work(&mut connection));
        match done {
            Ok(done) => {
                self.used = Instant::now();
                self.connection = Some(connection);
                Ok(done)
            }
            Err(error) => Err(Outage::of(&error)),
        }
    }

    /// Returns a connection that nobody else uses, for a subscription.
    pub(crate) fn connect(&self) -> Result<Connection, Outage> {
        self.server.connect().map_err(|error| Outage::of(&error))
    }

    fn connected(&mut self) -> Result<Connection, Outage> {
        if let Some(mut connection) = self.connection.take()
            && (self.used.elapsed() < TRUSTED_IDLE
                || redis::cmd("PING").exec(&mut connection).is_ok())
        {
            return Ok(connection);
        }
        if let Some((when, outage)) = &self.failed
            && when.elapsed() < REST
        {
            return Err(outage.clone());
        }
        match self.connect() {
            Ok(connection) => {
                self.failed = None;
                Ok(connection)
            }
            Err(outage) => {
                self.failed = Some((Instant::now(), outage.clone()));
                Err(outage)
            }
        }
    }
}
