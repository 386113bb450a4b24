//! What a sender that waits is told: whether all of its events are safe.
//!
//! A [`Receipt`] is for one request. Whoever holds events of it holds a [`Claim`], and settles it when
//! they are delivered, on a disk, or dropped by a rule. A claim that is dropped otherwise says that
//! events were lost on the way: then the sender has to send the request again.

use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::Notify;

/// Waits for the claims on one request.
#[derive(Debug, Default)]
pub struct Receipt {
    state: Mutex<State>,
    closed: Notify,
}

#[derive(Debug, Default)]
struct State {
    open: usize,
    lost: bool,
}

/// The duty to say what became of events.
#[derive(Debug)]
pub struct Claim {
    receipt: Arc<Receipt>,
    settled: bool,
}

impl Receipt {
    /// Makes a receipt that nobody has a claim on yet.
    pub fn new() -> Arc<Self> {
        Arc::new(Self::default())
    }

    /// Makes a claim on it.
    pub fn claim(self: &Arc<Self>) -> Claim {
        self.state.lock().open += 1;
        Claim {
            receipt: Arc::clone(self),
            settled: false,
        }
    }

    /// Waits until there are no claims, and returns whether all were settled.
    pub async fn settled(&self) -> bool {
        loop {
            let closed = self.closed.notified();
            {
                let state = self.state.lock();
                if state.open == 0 || state.lost {
                    return !state.lost;
                }
            }
            closed.await;
        }
    }
}

impl Claim {
    /// Makes another claim on the same receipt.
    pub fn another(&self) -> Self {
        self.receipt.claim()
    }

    /// Says that the events are safe.
    pub fn settle(mut self) {
        self.settled = true;
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let mut state = self.receipt.state.lock();
        state.open -= 1;
        state.lost |= !self.settled;
        if state.open == 0 || state.lost {
            drop(state);
            self.receipt.closed.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[test]
    fn receipt_waits_for_all_claims_and_knows_of_a_lost_one() {
        let receipt = Receipt::new();
        let (first, second) = (receipt.claim(), receipt.claim());
        let third = second.another();
        first.settle();
        third.settle();
        assert_eq!(receipt.settled().now_or_never(), None);
        second.settle();
        assert_eq!(receipt.settled().now_or_never(), Some(true));
        let receipt = Receipt::new();
        let (first, second) = (receipt.claim(), receipt.claim());
        drop(first);
        assert_eq!(receipt.settled().now_or_never(), Some(false));
        second.settle();
        assert_eq!(receipt.settled().now_or_never(), Some(false));
    }
}
