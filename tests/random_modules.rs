//! Modules that nobody would write: random bytes, real modules with a few bits flipped, and valid
//! modules of random code that has the contract's shape. None of them panics or aborts the host,
//! and whatever they answer, the books balance.

use std::fs;

use arbitrary::Unstructured;
use serde_json::json;
use streamgate::{
    digest::Digest,
    manifest::Rule,
    wasm::{Compiler, ModuleError, Params, Runner, Stack, Wasm, WasmRule},
};
use streamgate_guest::Batch;
use wasm_smith::{Config, Module};
use wit_component::{StringEncoding, embed_component_metadata};
use wit_parser::Resolve;

use crate::support::{guest, pseudo_random};

/// What the contract's world looks like in a core module: the canonical ABI of
/// `guest-sdk/wit/processor.wit` (github.com/WebAssembly/component-model, `CanonicalABI.md`).
const SHAPE: &str = r#"(module
    (memory (export "memory") 2 64)
    (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) unreachable)
    (func (export "configure") (param i32 i32) (result i32) unreachable)
    (func (export "process") (param i32 i32 i32 i32) (result i32) unreachable)
)"#;

const WIT: &str = include_str!("../guest-sdk/wit/processor.wit");

#[test]
fn random_bytes_are_refused() {
    let wasm = Wasm::new(1, Compiler::Here, None);
    let random = noise(1, 64 * 1024);
    for (at, length) in (0..400).map(|n| (n * 31, n)) {
        let bytes = &random[at..at + length];
        load(&wasm, bytes).expect_err("noise is no module");
        // Past the first check, for both kinds.
        for magic in [b"\0asm\x01\0\0\0", b"\0asm\x0d\0\x01\0"] {
            load(&wasm, &[magic, bytes].concat()).expect_err("noise is no module");
        }
    }
}

#[test]
fn modules_with_flipped_bits_are_refused_or_run() {
    let wasm = Wasm::new(1, Compiler::Here, None);
    let module = fs::read(guest("keep-all")).expect("it was built");
    let random = noise(2, 64 * 1024);
    let mut refused = 0;
    for numbers in random.chunks_exact(8).take(60) {
        let mut bytes = module.clone();
        for number in numbers.chunks_exact(4) {
            let number = u32::from_le_bytes(number.try_into().expect("four bytes")) as usize;
            bytes[number % module.len()] ^= 1 << (number % 7);
        }
        match load(&wasm, &bytes) {
            Ok(rule) => run(rule),
            Err(_) => refused += 1,
        }
    }
    assert!(refused > 0, "no flip was noticed");
}

#[test]
fn random_code_of_the_right_shape_is_stood() {
    let wasm = Wasm::new(1, Compiler::Here, None);
    let mut resolve = Resolve::default();
    let package = resolve.push_str("processor.wit", WIT).expect("it is valid");
    let world = resolve.select_world(&[package], None).expect("it has one");
    let random = noise(3, 4 << 20);
    let (mut compiled, mut configured, mut modules) = (0, 0, 0);
    let mut refusals = Vec::new();
    for bytes in random.chunks_exact(16 * 1024).take(150) {
        let config = Config {
            exports: Some(wat::parse_str(SHAPE).expect("it is valid")),
            max_imports: 0,
            // Beside the one of the shape.
            max_memories: 0,
            reference_types_enabled: false,
            gc_enabled: false,
            exceptions_enabled: false,
            threads_enabled: false,
            memory64_enabled: false,
            tail_call_enabled: false,
            ..Config::default()
        };
        let Ok(module) = Module::new(config, &mut Unstructured::new(bytes)) else {
            continue;
        };
        let mut module = module.to_bytes();
        embed_component_metadata(&mut module, &resolve, world, StringEncoding::UTF8)
            .expect("the shape is the world's");
        modules += 1;
        match load(&wasm, &module) {
            Ok(rule) => {
                configured += 1;
                run(rule);
            }
            // It ran, and failed on its way up.
            Err(Refused::ByTheRule) => compiled += 1,
            Err(Refused::AtUpload(error)) => refusals.push(error),
        }
    }
    eprintln!("of {modules} modules {compiled} failed on their way up, {configured} came up");
    assert!(modules > 100, "only {modules} were made");
    assert!(
        compiled + configured > modules / 2,
        "{:?}",
        &refusals[..refusals.len().min(5)]
    );
}

/// How far a module came.
#[derive(Debug)]
enum Refused {
    AtUpload(String),
    ByTheRule,
}

fn noise(seed: u64, bytes: usize) -> Vec<u8> {
    let mut noise = vec![0; bytes];
    pseudo_random(seed).fill(&mut noise);
    noise
}

/// Loads bytes as a module and configures a rule of it.
fn load(wasm: &Wasm, bytes: &[u8]) -> Result<WasmRule, Refused> {
    let told = |error: ModuleError| {
        assert!(streamgate::wasm::CODES.contains(&error.code), "{error:?}");
        Refused::AtUpload(error.message)
    };
    let module = wasm
        .load(Digest::of(bytes), bytes, Stack::default())
        .map_err(told)?;
    let rule = json!({"id": "random", "type": "wasm", "params": {
        "module": "random",
        "limits": {"batch_ms": 5, "configure_ms": 5, "memory_bytes": 8 << 20},
    }});
    let rule: Rule = serde_json::from_value(rule).expect("a rule");
    let params = Params::parse(&rule).expect("they are right");
    WasmRule::build(&rule, &params, module, 1, None).map_err(|_| Refused::ByTheRule)
}

/// Runs batches through a rule that may do anything.
fn run(rule: WasmRule) {
    let mut runner = Runner::new(rule.into());
    for lines in [
        "one\n",
        "a\r\n\nc\n",
        "0123456789\n0123456789\n0123456789\n",
    ] {
        let mut batch = Batch::from_lines(lines);
        let before = batch.events() as u64;
        let ran = runner.run(&mut batch);
        let after = batch.events() as u64;
        assert_eq!(
            before,
            after + ran.tally.dropped + ran.tally.failed_dropped,
            "{ran:?}"
        );
        let left: Vec<u8> = batch.slices().flatten().copied().collect();
        assert_eq!(
            left.iter().filter(|byte| **byte == b'\n').count() as u64,
            after
        );
    }
}
