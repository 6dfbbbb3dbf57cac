//! Readiness, reported to a service manager.

pub fn notify_ready() {
    // Nobody listens unless a service manager started us.
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
}
