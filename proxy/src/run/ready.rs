//! Readiness, reported to a service manager.

pub fn notify_ready() {
    // Without a service manager there is no receiver.
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
}
