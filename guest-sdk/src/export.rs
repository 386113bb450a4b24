//! From a [`Processor`] to the exports of the WIT world in `wit/processor.wit`.
//!
//! All `unsafe` of a guest is what wit-bindgen generates here and in [`export!`](crate::export!).

use crate::{Batch, Processor, changes::Changes};

/// Makes a crate a module that the gate can load: exports the world's functions for one processor,
/// which must be [`Configure`](crate::Configure).
///
/// On native targets it makes nothing and only checks the type, so that the crate can be tested with
/// plain `cargo test`.
#[macro_export]
macro_rules! export {
    ($processor:ty) => {
        #[cfg(target_arch = "wasm32")]
        const _: () = {
            ::std::thread_local! {
                static PROCESSOR: $crate::export::Slot<$processor> =
                    const { $crate::export::Slot::new(::core::option::Option::None) };
            }

            struct Exported;

            impl $crate::export::bindings::Guest for Exported {
                fn configure(
                    config: ::std::string::String,
                ) -> ::core::result::Result<(), ::std::string::String> {
                    PROCESSOR.with(|slot| $crate::export::configure(slot, &config))
                }

                fn process(
                    events: $crate::export::bindings::Batch,
                ) -> ::core::result::Result<
                    $crate::export::bindings::Changes,
                    ::std::string::String,
                > {
                    PROCESSOR.with(|slot| $crate::export::process_batch(slot, events))
                }
            }

            $crate::export::bindings::export!(
                Exported with_types_in $crate::export::bindings
            );
        };
        #[cfg(not(target_arch = "wasm32"))]
        const _: fn() = $crate::export::check::<$processor>;
    };
}

/// Processes a batch that came as columns, and tells what was done.
pub(crate) fn process<P: Processor>(processor: &mut P, bytes: Vec<u8>, ends: Vec<u32>) -> Changes {
    let mut batch = Batch::from_columns(bytes, ends);
    // The gate keeps the books, by the changes.
    let _ = processor.process(&mut batch);
    batch.changes()
}

/// Fails to compile for what [`export!`](crate::export!) cannot export.
#[cfg(not(target_arch = "wasm32"))]
pub fn check<P: crate::Configure + 'static>() {}

#[cfg(target_arch = "wasm32")]
pub use self::guest::{Slot, bindings, configure, process_batch};

#[cfg(target_arch = "wasm32")]
mod guest {
    use std::{cell::RefCell, panic};

    use super::{Processor, process};
    use crate::{Configure, host};

    pub mod bindings {
        wit_bindgen::generate!({
            world: "processor",
            path: "wit",
            pub_export_macro: true,
        });
    }

    /// Holds the processor of an instance.
    pub type Slot<P> = RefCell<Option<P>>;

    pub fn configure<P: Configure>(slot: &Slot<P>, config: &str) -> Result<(), String> {
        // A panic becomes a trap, which says nothing; so it is said before.
        panic::set_hook(Box::new(|panic| host::error(&panic.to_string())));
        *slot.borrow_mut() = Some(P::configure(config)?);
        Ok(())
    }

    pub fn process_batch<P: Processor>(
        slot: &Slot<P>,
        events: bindings::Batch,
    ) -> Result<bindings::Changes, String> {
        let mut slot = slot.borrow_mut();
        let Some(processor) = slot.as_mut() else {
            return Err("`process` was called before `configure`".to_owned());
        };
        let changes = process(processor, events.bytes, events.ends);
        Ok(bindings::Changes {
            dropped: changes.dropped,
            replaced: changes.replaced,
            bytes: changes.bytes,
            ends: changes.ends,
        })
    }
}
