//! The functions that a guest may import: the contract's `host`, and a WASI in which there is
//! nothing.
//!
//! None of them blocks, and none allocates more than a guest's own memory holds: a deadline cannot
//! end a call of the host.

use wasmtime::{
    StoreContextMut, bail,
    component::{Component, ComponentType, Lift, Linker, Lower, Resource, WasmStr},
};

use super::instance::State;

/// The interface of the contract that guests import.
pub(super) const HOST: &str = "streamgate:processor/host@1.0.0";

/// The namespace of the interfaces that common toolchains link in, asked for or not.
pub(super) const WASI: &str = "wasi:";

/// Most random bytes in one call of WASI.
const MAX_RANDOM_BYTES: u64 = 64 * 1024;

/// Most handles that one instance is ever given. They are kept by the host, and a guest that asks
/// for one in a loop would fill its memory.
const MAX_HANDLES: u32 = 1_024;

/// How loud a guest's log line is.
#[expect(
    dead_code,
    reason = "a level is lifted from what a guest passes, never made"
)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, ComponentType, Lift)]
#[component(enum)]
#[repr(u8)]
pub(super) enum Level {
    /// For who works on the guest.
    #[component(name = "debug")]
    Debug,
    /// Worth knowing.
    #[component(name = "info")]
    Info,
    /// Degraded.
    #[component(name = "warn")]
    Warn,
    /// Someone must act.
    #[component(name = "error")]
    Error,
}

/// Links everything that `component` imports.
///
/// # Errors
/// If an import has another type than it must have.
pub(super) fn link(linker: &mut Linker<State>, component: &Component) -> wasmtime::Result<()> {
    host(linker)?;
    let ty = component.component_type();
    for (name, _) in ty.imports(component.engine()) {
        if name.starts_with(WASI) {
            empty_wasi(linker, name)?;
        }
    }
    // What is left of WASI traps when it is called; whoever only links it is not bothered.
    linker.define_unknown_imports_as_traps(component)
}

fn host(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    let mut host = linker.instance(HOST)?;
    host.func_wrap(
        "log",
        |mut store: StoreContextMut<State>, (level, message): (Level, WasmStr)| {
            if store.data_mut().may_log() {
                let message = message.to_str(&store)?.into_owned();
                store.data().log(level, &message);
            }
            Ok(())
        },
    )?;
    host.func_wrap(
        "count",
        |store: StoreContextMut<State>, (name, by): (WasmStr, u64)| {
            let name = name.to_str(&store)?;
            store.data().count(&name, by);
            Ok(())
        },
    )?;
    host.func_wrap("now-ms", |store: StoreContextMut<State>, ()| {
        Ok((store.data().now_ms,))
    })?;
    host.func_wrap("random", |mut store: StoreContextMut<State>, ()| {
        Ok((store.data_mut().random.u64(..),))
    })
}

#[derive(ComponentType, Lower, Lift)]
#[component(variant)]
enum StreamError {
    #[component(name = "last-operation-failed")]
    Failed(Resource<()>),
    #[component(name = "closed")]
    Closed,
}

#[derive(ComponentType, Lower, Lift)]
#[component(record)]
struct Datetime {
    seconds: u64,
    nanoseconds: u32,
}

/// Answers what language runtimes ask for on their way up, with nothing: no arguments, no
/// environment, no directories; what is written to stdout is gone. Names and types are those of
/// WASI 0.2 (github.com/WebAssembly/WASI, `wasip2`).
fn empty_wasi(linker: &mut Linker<State>, name: &str) -> wasmtime::Result<()> {
    let interface = name.split('@').next().unwrap_or(name);
    let mut instance = linker.instance(name)?;
    match interface {
        "wasi:cli/environment" => {
            instance.func_wrap("get-environment", |_, ()| {
                Ok((Vec::<(String, String)>::new(),))
            })?;
            instance.func_wrap("get-arguments", |_, ()| Ok((Vec::<String>::new(),)))?;
            instance.func_wrap("initial-cwd", |_, ()| Ok((None::<String>,)))
        }
        "wasi:cli/stdin" => instance.func_wrap("get-stdin", handle),
        "wasi:cli/stdout" => instance.func_wrap("get-stdout", handle),
        "wasi:cli/stderr" => instance.func_wrap("get-stderr", handle),
        "wasi:cli/terminal-stdin" => instance.func_wrap("get-terminal-stdin", no_terminal),
        "wasi:cli/terminal-stdout" => instance.func_wrap("get-terminal-stdout", no_terminal),
        "wasi:cli/terminal-stderr" => instance.func_wrap("get-terminal-stderr", no_terminal),
        "wasi:filesystem/preopens" => instance.func_wrap("get-directories", |_, ()| {
            Ok((Vec::<(Resource<()>, String)>::new(),))
        }),
        "wasi:io/streams" => {
            type Written = (Result<(), StreamError>,);
            instance.func_wrap(
                "[method]output-stream.check-write",
                |_, _: (Resource<()>,)| Ok((Ok::<u64, StreamError>(64 * 1024),)),
            )?;
            for write in ["write", "blocking-write-and-flush"] {
                let name = format!("[method]output-stream.{write}");
                instance.func_wrap(
                    &name,
                    |_,
                     _: (Resource<()>, wasmtime::component::WasmList<u8>)|
                     -> wasmtime::Result<Written> { Ok((Ok(()),)) },
                )?;
            }
            for flush in ["flush", "blocking-flush"] {
                let name = format!("[method]output-stream.{flush}");
                instance.func_wrap(
                    &name,
                    |_, _: (Resource<()>,)| -> wasmtime::Result<Written> { Ok((Ok(()),)) },
                )?;
            }
            Ok(())
        }
        "wasi:clocks/wall-clock" => {
            instance.func_wrap("now", |store: StoreContextMut<State>, ()| {
                Ok((datetime(store.data().now_ms),))
            })?;
            instance.func_wrap("resolution", |_, ()| Ok((datetime(1),)))
        }
        "wasi:clocks/monotonic-clock" => {
            instance.func_wrap("now", |store: StoreContextMut<State>, ()| {
                Ok((store.data().now_ms.saturating_mul(1_000_000),))
            })?;
            instance.func_wrap("resolution", |_, ()| Ok((1_000_000_u64,)))
        }
        "wasi:random/random" => {
            instance.func_wrap("get-random-bytes", random_bytes)?;
            instance.func_wrap("get-random-u64", random_number)
        }
        "wasi:random/insecure" => {
            instance.func_wrap("get-insecure-random-bytes", random_bytes)?;
            instance.func_wrap("get-insecure-random-u64", random_number)
        }
        "wasi:random/insecure-seed" => {
            instance.func_wrap("insecure-seed", |mut store: StoreContextMut<State>, ()| {
                let random = &mut store.data_mut().random;
                Ok(((random.u64(..), random.u64(..)),))
            })
        }
        _ => Ok(()),
    }
}

fn handle(mut store: StoreContextMut<State>, (): ()) -> wasmtime::Result<(Resource<()>,)> {
    let state = store.data_mut();
    if state.handles >= MAX_HANDLES {
        bail!("the guest asked for more than {MAX_HANDLES} handles");
    }
    state.handles += 1;
    Ok((Resource::new_own(0),))
}

#[expect(clippy::unnecessary_wraps, reason = "the linker wants a result")]
fn no_terminal(_: StoreContextMut<State>, (): ()) -> wasmtime::Result<(Option<Resource<()>>,)> {
    Ok((None,))
}

fn random_bytes(mut store: StoreContextMut<State>, (len,): (u64,)) -> wasmtime::Result<(Vec<u8>,)> {
    let bytes = usize::try_from(len.min(MAX_RANDOM_BYTES)).unwrap_or_default();
    if len > MAX_RANDOM_BYTES {
        bail!("the guest asked for {len} random bytes; expected at most {MAX_RANDOM_BYTES}");
    }
    let mut random = vec![0; bytes];
    store.data_mut().random.fill(&mut random);
    Ok((random,))
}

#[expect(clippy::unnecessary_wraps, reason = "the linker wants a result")]
fn random_number(mut store: StoreContextMut<State>, (): ()) -> wasmtime::Result<(u64,)> {
    Ok((store.data_mut().random.u64(..),))
}

fn datetime(ms: u64) -> Datetime {
    Datetime {
        seconds: ms / 1_000,
        nanoseconds: u32::try_from(ms % 1_000).unwrap_or_default() * 1_000_000,
    }
}
