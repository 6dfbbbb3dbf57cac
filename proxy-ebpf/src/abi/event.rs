//! Events: what happened to one flow, for listeners. Records in the ring buffer `EVENTS`.

use super::{Endpoint, map_type};

/// A record of `EVENTS`.
///
/// Agent and programs of one release share the ring, which is not pinned, so the layout may change with any release.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Event {
    /// Nanoseconds of the monotonic clock.
    pub time: u64,
    /// Nanoseconds from connect to the failure; 0 for other kinds.
    pub duration: u64,
    /// The client as seen. Address or port are 0 where a socket has none yet.
    pub source: Endpoint,
    /// The destination as the client sees it.
    pub destination: Endpoint,
    /// The backend; port 0 is none.
    pub backend: Endpoint,
    /// Index of the interface; 0 at socket hooks.
    pub interface: u32,
    /// Index into `SERVICES`; `NO_SERVICE` if no service port is known.
    pub service: u32,
    /// The process in the system call (its thread group in the initial PID namespace); 0 elsewhere.
    pub process: u32,
    /// A number of `EventKind`.
    pub kind: u8,
    /// A number of `EventHook`.
    pub hook: u8,
    /// A `DropReason` of a refusal, a `ConnectFailure` of a failed connection, a `HealthFault` of a suspected backend; `UNANSWERED` of a
    /// flow that got another backend for that; else 0.
    pub reason: u8,
    /// IANA protocol number.
    pub protocol: u8,
    /// The name of the thread (`comm`), ended by zeros; empty without a process.
    pub command: [u8; 16],
    pub zero: u32,
}
map_type!(Event, 2 * 8 + 3 * 20 + 3 * 4 + 4 + 16 + 4);

impl Event {
    /// The index of no service port.
    pub const NO_SERVICE: u32 = u32::MAX;
    /// The reason of `Switched` and `Resteered` if the backend was not removed, but did not answer.
    pub const UNANSWERED: u8 = 1;
}

/// Declares an enum of numbers with names, as in the output of `portreeve events`.
macro_rules! named {
    ($(#[$about:meta])* $name:ident { $($(#[$meaning:meta])* $variant:ident = $label:literal;)+ }) => {
        $(#[$about])*
        #[repr(u8)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum $name {
            $($(#[$meaning])* $variant,)+
        }

        impl $name {
            /// Each variant at its own number.
            pub const ALL: [Self; [$(stringify!($variant)),+].len()] = [$(Self::$variant),+];

            /// The variant of a number; `None` for a number of no variant.
            pub fn of(number: u8) -> Option<Self> {
                Self::ALL.get(usize::from(number)).copied()
            }

            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $label,)+
                }
            }
        }
    };
}

named! {
    /// What happened to a flow.
    EventKind {
        /// A new flow got a backend.
        NewFlow = "new_flow";
        /// A packet or system call was refused.
        Refused = "refused";
        /// A UDP flow whose backend was removed got another one, or a TCP flow whose SYN was not answered.
        Switched = "switched";
        /// As `Switched`, of a socket that was translated at connect and still sends to the earlier backend.
        Resteered = "resteered";
        /// A flow that had not expired was ended to make room for another.
        Evicted = "evicted";
        /// A connection of a translated socket was of no use.
        ConnectFailed = "connect_failed";
        /// A backend is left out of new connections from now on.
        Suspected = "suspected";
        /// A suspected backend has answered.
        Restored = "restored";
    }
}

named! {
    /// Where the programs saw it.
    EventHook {
        Connect = "connect";
        Sendmsg = "sendmsg";
        /// The socket's own state.
        SockOps = "sock_ops";
        TcIngress = "tc_ingress";
        TcEgress = "tc_egress";
        Xdp = "xdp";
        /// The flow table.
        Conntrack = "conntrack";
    }
}

impl EventHook {
    /// The plane as `explain` names it.
    pub const fn plane(self) -> &'static str {
        match self {
            Self::Connect | Self::Sendmsg | Self::SockOps => "socket",
            Self::TcIngress | Self::TcEgress | Self::Conntrack => "packet",
            Self::Xdp => "xdp",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_lead_to_their_variants() {
        for kind in EventKind::ALL {
            assert_eq!(EventKind::of(kind as u8), Some(kind));
        }
        for hook in EventHook::ALL {
            assert_eq!(EventHook::of(hook as u8), Some(hook));
        }
        assert_eq!((EventKind::of(200), EventHook::of(200)), (None, None));
    }
}
