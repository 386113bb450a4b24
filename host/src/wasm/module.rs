//! A module that was checked, compiled and linked: ready to make instances of.

use std::fmt;

use wasmtime::component::{Component, ComponentExportIndex, InstancePre, Linker};

use super::{
    ModuleError, ModuleInfo, compile::Artifact, engine::Runtime, hostcalls, instance::State,
};
use crate::digest::Digest;

/// A module that was checked and compiled.
pub struct Module {
    digest: Digest,
    info: ModuleInfo,
    runtime: Runtime,
    linked: InstancePre<State>,
    configure: ComponentExportIndex,
    process: ComponentExportIndex,
}

impl Module {
    /// Loads what was compiled, and links it.
    ///
    /// # Errors
    /// If an import has another type than the contract says.
    pub(super) fn load(
        digest: Digest,
        artifact: Artifact,
        runtime: &Runtime,
    ) -> Result<Self, ModuleError> {
        let failed = |error: wasmtime::Error| {
            ModuleError::new(
                "invalid_module",
                format!("the module cannot be linked: {error:#}"),
            )
        };
        let component = deserialize(runtime, &artifact.code).map_err(failed)?;
        let mut linker = Linker::new(runtime.engine());
        hostcalls::link(&mut linker, &component).map_err(failed)?;
        let linked = linker.instantiate_pre(&component).map_err(failed)?;
        let export = |name| {
            let missing = || wasmtime::format_err!("it has no export `{name}`");
            component
                .get_export_index(None, name)
                .ok_or_else(missing)
                .map_err(failed)
        };
        let (configure, process) = (export("configure")?, export("process")?);
        Ok(Self {
            digest,
            info: artifact.info,
            runtime: runtime.clone(),
            linked,
            configure,
            process,
        })
    }

    /// Returns its digest.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// Says what it is.
    pub fn info(&self) -> &ModuleInfo {
        &self.info
    }

    pub(super) fn runtime(&self) -> &Runtime {
        &self.runtime
    }

    pub(super) fn linked(&self) -> &InstancePre<State> {
        &self.linked
    }

    pub(super) fn configure(&self) -> &ComponentExportIndex {
        &self.configure
    }

    pub(super) fn process(&self) -> &ComponentExportIndex {
        &self.process
    }
}

impl fmt::Debug for Module {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Module")
            .field("digest", &self.digest)
            .finish_non_exhaustive()
    }
}

#[expect(
    unsafe_code,
    reason = "wasmtime cannot check that code is what a compiler made; the caller vouches for it"
)]
fn deserialize(runtime: &Runtime, code: &[u8]) -> wasmtime::Result<Component> {
    // SAFETY: `code` was made by `Component::serialize` in `compile::compile`: in this process, in
    // a child that is the same program and whose only output it is, or in an earlier process, from
    // a file that only the user that the gate runs as can have written (`code_cache`). It is never
    // read from a store or the network.
    unsafe { Component::deserialize(runtime.engine(), code) }
}
