//! The end-to-end tests: the real binary, over its sockets. One module a subject.

mod passthrough;
mod support;
