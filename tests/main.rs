//! The end-to-end tests: the real binary, over its sockets. One module a subject.

mod apply;
mod bad_input;
mod books;
mod docs;
mod fleet;
mod fleet_access;
mod fleet_faults;
mod fleet_guide;
mod fleet_signed;
mod framing;
mod guests_in_process;
mod http_ingest;
mod js_guest;
mod modules;
mod outputs;
mod overload;
mod passthrough;
mod process;
mod quick_start;
mod random_modules;
mod reload;
mod restart;
mod rules;
mod shutdown;
mod support;
mod writing_a_processor;
