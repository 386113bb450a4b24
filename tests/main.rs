//! The end-to-end tests: the real binary, over its sockets. One module a subject.

mod framing;
mod http_ingest;
mod passthrough;
mod quick_start;
mod support;
