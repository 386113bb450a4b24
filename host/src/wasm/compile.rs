//! From an upload to code: checks, encoding as a component, compilation; in a process of its own.
//!
//! An upload is hostile input to a decoder, an encoder and an optimising compiler, and none of them
//! promises to stay within a time or a memory. So all three run in a child: a lowly one, killed at
//! its limits, whose crash costs nothing. The child is this very program, so what it compiles is
//! for this very program.

use std::{
    fs,
    io::{self, Read, Write},
    process::{Child, Command, Stdio},
    sync::mpsc::{Receiver, RecvTimeoutError, sync_channel},
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Resource, Rlimit, nice, setrlimit};
use serde::{Deserialize, Serialize};
use wasi_preview1_component_adapter_provider::{
    WASI_SNAPSHOT_PREVIEW1_ADAPTER_NAME, WASI_SNAPSHOT_PREVIEW1_REACTOR_ADAPTER,
};
use wasmparser::{CanonicalFunction, Encoding, Parser, Payload};
use wasmtime::{
    Engine,
    component::{Component, types::ComponentItem},
};
use wit_component::ComponentEncoder;

use super::{
    ModuleError, ModuleInfo, engine,
    hostcalls::{HOST, WASI},
};
use crate::wasm::MAX_MODULE_BYTES;

/// The hidden subcommand that makes this program compile one module from stdin to stdout.
pub const SUBCOMMAND: &str = "compile-module";

/// What a compilation may cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CompileLimits {
    /// Most processor time, in whole seconds, at least 1.
    pub time: Duration,
    /// Most memory, in bytes: what the child's resident set may be.
    pub memory_bytes: u64,
}

impl Default for CompileLimits {
    /// A component of 12 MB, an interpreter for JavaScript with its program, takes about 6 s and
    /// some hundred MiB.
    fn default() -> Self {
        Self {
            time: Duration::from_secs(60),
            memory_bytes: 1 << 30,
        }
    }
}

/// Most wall-clock time for each unit of processor time: a compilation has a low priority.
const WALL_FACTOR: u32 = 4;

/// Address space beyond the memory, much of which is only reserved. It bounds what the resident set
/// may become between two looks.
const SPARE_ADDRESS_SPACE: u64 = 8 << 30;

/// Time between two looks at the child's memory.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// Largest code that is taken from a compilation, in bytes.
const MAX_CODE_BYTES: u64 = 512 << 20;

/// A low priority (`nice(2)`): beside workers that want all there is it gets a tenth of a
/// processor, so that a busy gate is not slowed and its rules can still be changed.
const NICE: i32 = 10;

/// Most functions in one module; a compiler's tables grow with them.
const MAX_NAMES: usize = 1_000;

/// What came of a compilation.
#[derive(Debug)]
pub(super) struct Artifact {
    pub(super) info: ModuleInfo,
    /// For `Component::deserialize`, made by this very program.
    pub(super) code: Vec<u8>,
}

/// What the child writes before the code: a line of JSON.
#[derive(Debug, Serialize, Deserialize)]
enum Verdict {
    Compiled(ModuleInfo),
    Refused { code: String, message: String },
}

/// Checks and compiles `bytes` in a child, within the limits.
///
/// # Errors
/// [`ModuleError`] says what the bytes are not, or which limit they passed.
pub(super) fn in_child(bytes: &[u8], limits: CompileLimits) -> Result<Artifact, ModuleError> {
    let failed = |error: io::Error| {
        ModuleError::new(
            "compiler_failed",
            format!("the compiler could not be run: {error}; try again"),
        )
    };
    // The file may have been replaced since; this is the program that runs.
    let mut child = Command::new("/proc/self/exe")
        .arg(SUBCOMMAND)
        .arg(limits.time.as_secs().to_string())
        .arg((limits.memory_bytes + SPARE_ADDRESS_SPACE).to_string())
        .env_clear()
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(failed)?;
    let (mut to_child, from_child) = (child.stdin.take(), child.stdout.take());
    let (finished, is_finished) = sync_channel::<()>(1);
    let (output, stopped) = thread::scope(|scope| {
        let watch = scope.spawn(|| watch(&mut child, is_finished, limits));
        // A child that ended early tells by its end; that it did not read is no news.
        if let Some(mut stdin) = to_child.take() {
            let _ = stdin.write_all(bytes);
        }
        let mut output = Vec::new();
        let read = from_child.map_or(Ok(0), |stdout| {
            stdout.take(MAX_CODE_BYTES + 1).read_to_end(&mut output)
        });
        // It is not held up by what we did not read.
        let _ = finished.send(());
        let stopped = watch.join().unwrap_or(None);
        (read.map(|_| output), stopped)
    });
    let status = child.wait().map_err(failed)?;
    if let Some(limit) = stopped {
        return Err(limit);
    }
    if !status.success() {
        return Err(died(status, limits));
    }
    understand(output.map_err(failed)?)
}

/// Looks after the child until it is finished, and kills it at a limit.
#[expect(
    clippy::needless_pass_by_value,
    reason = "a receiver cannot be shared between threads"
)]
fn watch(child: &mut Child, finished: Receiver<()>, limits: CompileLimits) -> Option<ModuleError> {
    let begun = Instant::now();
    let mut stopped = None;
    while let Err(RecvTimeoutError::Timeout) = finished.recv_timeout(LOOK_EVERY) {
        let found = resident_bytes(child.id());
        if found > limits.memory_bytes {
            stopped = Some(ModuleError::new(
                "compile_memory",
                format!(
                    "compiling the module took more than {} MiB of memory; make it smaller, or \
                     split very large functions",
                    limits.memory_bytes >> 20
                ),
            ));
        } else if begun.elapsed() > limits.time * WALL_FACTOR {
            stopped = Some(too_slow(limits));
        }
        if stopped.is_some() {
            let _ = child.kill();
            break;
        }
    }
    stopped
}

/// Returns the resident set of a process, 0 if it is gone. `proc(5)`, `statm`, second field.
fn resident_bytes(process: u32) -> u64 {
    let statm = fs::read_to_string(format!("/proc/{process}/statm")).unwrap_or_default();
    let pages: Option<u64> = statm.split(' ').nth(1).and_then(|field| field.parse().ok());
    pages.unwrap_or(0) * rustix::param::page_size() as u64
}

fn too_slow(limits: CompileLimits) -> ModuleError {
    ModuleError::new(
        "compile_time",
        format!(
            "compiling the module took more than {} s of processor time; make it smaller, or \
             split very large functions",
            limits.time.as_secs()
        ),
    )
}

fn died(status: std::process::ExitStatus, limits: CompileLimits) -> ModuleError {
    use std::os::unix::process::ExitStatusExt;
    /// `signal(7)`: the limit of processor time.
    const SIGXCPU: i32 = 24;
    match status.signal() {
        Some(SIGXCPU) => too_slow(limits),
        _ => ModuleError::new(
            "compiler_crashed",
            format!("the compiler gave up on the module ({status}); it is not taken"),
        ),
    }
}

fn understand(output: Vec<u8>) -> Result<Artifact, ModuleError> {
    let broken = || {
        ModuleError::new(
            "compiler_failed",
            "the compiler ended without an answer; try again",
        )
    };
    if output.len() as u64 > MAX_CODE_BYTES {
        return Err(ModuleError::new(
            "compile_memory",
            format!(
                "the module compiles to more than {} MiB of code",
                MAX_CODE_BYTES >> 20
            ),
        ));
    }
    let end = memchr::memchr(b'\n', &output).ok_or_else(broken)?;
    match serde_json::from_slice(&output[..end]).map_err(|_| broken())? {
        Verdict::Compiled(info) => {
            let mut code = output;
            code.drain(..=end);
            Ok(Artifact { info, code })
        }
        Verdict::Refused { code, message } => Err(ModuleError::new(&code, message)),
    }
}

/// Is the child: compiles what comes from stdin to stdout, within limits of the operating system.
///
/// # Errors
/// If stdin cannot be read or stdout not be written.
pub fn child(cpu_seconds: u64, address_space: u64) -> io::Result<()> {
    let limit = |resource, most| {
        let limit = Rlimit {
            current: Some(most),
            maximum: Some(most),
        };
        setrlimit(resource, limit)
    };
    // At the hard limit the signal would be SIGKILL, which does not tell which limit it was.
    let time = Rlimit {
        current: Some(cpu_seconds),
        maximum: Some(cpu_seconds + 1),
    };
    setrlimit(Resource::Cpu, time)?;
    limit(Resource::As, address_space)?;
    // A crash is expected and of no interest; its memory may hold what a user uploaded.
    limit(Resource::Core, 0)?;
    nice(NICE)?;
    let mut bytes = Vec::new();
    io::stdin()
        .take(MAX_MODULE_BYTES as u64 + 1)
        .read_to_end(&mut bytes)?;
    let (verdict, code) = match compile(&bytes) {
        Ok(artifact) => (Verdict::Compiled(artifact.info), artifact.code),
        Err(ModuleError { code, message }) => {
            let code = code.to_owned();
            (Verdict::Refused { code, message }, Vec::new())
        }
    };
    let mut stdout = io::stdout().lock();
    serde_json::to_writer(&mut stdout, &verdict)?;
    stdout.write_all(b"\n")?;
    stdout.write_all(&code)?;
    stdout.flush()
}

/// Checks and compiles `bytes` here and now, without limits.
pub(super) fn compile(bytes: &[u8]) -> Result<Artifact, ModuleError> {
    let kind = kind(bytes)?;
    let component = match kind {
        Kind::Component => bytes.to_vec(),
        Kind::Core => encode(bytes)?,
    };
    refuse_resources(&component)?;
    let failed = |error: wasmtime::Error| {
        ModuleError::new(
            "invalid_module",
            format!("the module does not compile: {error:#}"),
        )
    };
    let engine = engine::compiler().map_err(failed)?;
    let component = Component::from_binary(&engine, &component).map_err(failed)?;
    let info = describe(&engine, &component, kind)?;
    let code = component.serialize().map_err(failed)?;
    Ok(Artifact { info, code })
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Core,
    Component,
}

fn kind(bytes: &[u8]) -> Result<Kind, ModuleError> {
    /// First bytes of what is native code, or compiled for an engine (`.cwasm` is ELF).
    const NATIVE: [(&[u8], &str); 5] = [
        (b"\x7fELF", "ELF"),
        (b"MZ", "PE"),
        (b"\xcf\xfa\xed\xfe", "Mach-O"),
        (b"\xca\xfe\xba\xbe", "Mach-O or Java"),
        (b"!<arch>", "an archive"),
    ];
    if Engine::detect_precompiled(bytes).is_some() {
        return Err(ModuleError::new(
            "precompiled_module",
            "this is a module that was compiled already; only portable WASM is taken, since \
             compiled code would run without the sandbox",
        ));
    }
    if let Some((_, name)) = NATIVE.iter().find(|(magic, _)| bytes.starts_with(magic)) {
        return Err(ModuleError::new(
            "native_code",
            format!(
                "this is native code ({name}); only WASM is taken: build with `--target \
                 wasm32-unknown-unknown`"
            ),
        ));
    }
    match Parser::new(0).parse_all(bytes).next() {
        Some(Ok(Payload::Version { encoding, .. })) => Ok(match encoding {
            Encoding::Module => Kind::Core,
            Encoding::Component => Kind::Component,
        }),
        _ => Err(ModuleError::new(
            "not_wasm",
            "this is no WASM: a binary module begins with the bytes `00 61 73 6d` and a version; \
             upload the `.wasm` file itself",
        )),
    }
}

/// Makes a component of a core module that carries its world, as the SDK's modules do.
fn encode(bytes: &[u8]) -> Result<Vec<u8>, ModuleError> {
    check_core_imports(bytes)?;
    let world = "the module carries no world, so it cannot be told what it offers; build it with \
                 the SDK's `export!`, with `wit-bindgen`, or make it a component with \
                 `wasm-tools component new`";
    let metadata = wit_component::metadata::decode(bytes);
    if !matches!(metadata, Ok((Some(_), _))) {
        return Err(ModuleError::new("no_world", world));
    }
    ComponentEncoder::default()
        .module(bytes)
        .and_then(|encoder| {
            encoder
                .validate(true)
                .adapter(
                    WASI_SNAPSHOT_PREVIEW1_ADAPTER_NAME,
                    WASI_SNAPSHOT_PREVIEW1_REACTOR_ADAPTER,
                )?
                .encode()
        })
        .map_err(|error| {
            ModuleError::new(
                "invalid_module",
                format!("the module cannot be made a component: {error:#}"),
            )
        })
}

/// Refuses a core module that imports what neither the contract nor WASI has.
fn check_core_imports(bytes: &[u8]) -> Result<(), ModuleError> {
    let invalid = |error: wasmparser::BinaryReaderError| {
        ModuleError::new(
            "invalid_module",
            format!("the module is not valid: {error}"),
        )
    };
    for payload in Parser::new(0).parse_all(bytes) {
        let Payload::ImportSection(imports) = payload.map_err(invalid)? else {
            continue;
        };
        for import in imports.into_imports() {
            let import = import.map_err(invalid)?;
            let known = import.module == WASI_SNAPSHOT_PREVIEW1_ADAPTER_NAME
                || import.module.starts_with(WASI)
                || is_contract(import.module)
                // What `wit-component` itself gives meaning to.
                || import.module.starts_with('$')
                || import.module.starts_with('[');
            if !known {
                return Err(unknown_import(&format!(
                    "{}#{}",
                    import.module, import.name
                )));
            }
        }
    }
    Ok(())
}

/// Refuses a component that makes resources of its own: their handles are kept by the host, whose
/// memory a guest could fill with them.
fn refuse_resources(component: &[u8]) -> Result<(), ModuleError> {
    for payload in Parser::new(0).parse_all(component) {
        let payload = payload.map_err(|error| {
            ModuleError::new(
                "invalid_module",
                format!("the component is not valid: {error}"),
            )
        })?;
        let Payload::ComponentCanonicalSection(functions) = payload else {
            continue;
        };
        for function in functions {
            if matches!(function, Ok(CanonicalFunction::ResourceNew { .. })) {
                return Err(ModuleError::new(
                    "unsupported_component",
                    "the component makes resources of its own; a processor has no use for them",
                ));
            }
        }
    }
    Ok(())
}

fn describe(engine: &Engine, component: &Component, kind: Kind) -> Result<ModuleInfo, ModuleError> {
    let ty = component.component_type();
    let mut imports = Vec::new();
    for (name, item) in ty.imports(engine) {
        if !is_contract(name) && !name.starts_with(WASI) {
            return Err(unknown_import(name));
        }
        if is_contract(name) && !is_ours(name) {
            return Err(ModuleError::new(
                "unknown_import",
                format!("the module needs `{name}`; this gate has `{HOST}`"),
            ));
        }
        match item.ty {
            ComponentItem::ComponentInstance(instance) => {
                let functions = instance.exports(engine).filter_map(|(function, item)| {
                    matches!(item.ty, ComponentItem::ComponentFunc(_))
                        .then(|| format!("{name}#{function}"))
                });
                imports.extend(functions.take(MAX_NAMES));
            }
            _ => imports.push(name.to_owned()),
        }
    }
    let exports: Vec<String> = ty
        .exports(engine)
        .map(|(name, _)| name.to_owned())
        .take(MAX_NAMES)
        .collect();
    for needed in ["configure", "process"] {
        if !exports.iter().any(|export| export == needed) {
            return Err(ModuleError::new(
                "missing_export",
                format!(
                    "the module has no export `{needed}`; the world `streamgate:processor` asks \
                     for it (the SDK's `export!` makes it)"
                ),
            ));
        }
    }
    imports.sort_unstable();
    let kind = match kind {
        Kind::Core => "core",
        Kind::Component => "component",
    };
    Ok(ModuleInfo {
        kind: kind.to_owned(),
        imports,
        exports,
    })
}

fn unknown_import(name: &str) -> ModuleError {
    let name = super::instance::shown(name);
    ModuleError::new(
        "unknown_import",
        format!(
            "the module imports `{name}`, which this gate does not have; it has `{HOST}`, and \
             WASI without anything in it"
        ),
    )
}

fn is_contract(name: &str) -> bool {
    name.starts_with("streamgate:processor/host@") || name == "streamgate:processor/host"
}

/// Whether `name` is the contract's interface in a version that this gate has: the same first
/// number, and not a newer one.
fn is_ours(name: &str) -> bool {
    let version = |name: &str| -> Option<[u64; 3]> {
        let (_, version) = name.split_once('@')?;
        let mut numbers = version.split('.').map(str::parse);
        let mut next = || numbers.next()?.ok();
        Some([next()?, next()?, next()?])
    };
    match (version(name), version(HOST)) {
        (Some(asked), Some(ours)) => asked[0] == ours[0] && asked <= ours,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn older_versions_of_the_contract_are_taken_and_newer_ones_are_not() {
        assert!(is_ours(HOST));
        for other in ["2.0.0", "1.1.0", "1.0.1", "0.9.0", "1.0", "x"] {
            assert!(
                !is_ours(&format!("streamgate:processor/host@{other}")),
                "{other}"
            );
        }
    }

    #[test]
    fn what_is_no_wasm_is_told_what_it_is() {
        let code = |bytes: &[u8]| compile(bytes).map(|_| ()).unwrap_err().code;
        assert_eq!(code(b""), "not_wasm");
        assert_eq!(code(b"(module)"), "not_wasm");
        assert_eq!(code(b"\x7fELF\x02\x01\x01"), "native_code");
        assert_eq!(code(b"MZ\x90"), "native_code");
        assert_eq!(code(b"\0asm\x01\0\0\0"), "no_world");
        assert_eq!(code(b"\0asm\x0d\0\x01\0"), "missing_export");
    }
}
