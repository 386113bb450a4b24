//! One signal that the end has begun, for everyone who waits for it.

use tokio::sync::watch;

/// Tells whether the end has begun.
#[derive(Debug, Clone)]
pub struct Shutdown {
    begun: watch::Receiver<bool>,
}

/// Begins the end. Dropping it begins the end too.
#[derive(Debug)]
pub struct Trigger {
    begun: watch::Sender<bool>,
}

/// Makes a signal and its trigger.
pub fn channel() -> (Trigger, Shutdown) {
    let (sender, receiver) = watch::channel(false);
    (Trigger { begun: sender }, Shutdown { begun: receiver })
}

impl Trigger {
    /// Begins the end.
    pub fn begin(&self) {
        self.begun.send_replace(true);
    }
}

impl Shutdown {
    /// Returns whether the end has begun.
    pub fn has_begun(&self) -> bool {
        *self.begun.borrow()
    }

    /// Waits until it has.
    pub async fn begun(&self) {
        // An error says that the trigger is gone, and with it whoever could tell us later.
        let _ = self.begun.clone().wait_for(|begun| *begun).await;
    }
}
