//! Signals that mean nothing harm nothing.

use rustix::process::Signal;

use crate::harness::{Backend, Config, Conn};

#[test]
fn a_storm_of_signals_is_harmless() {
    // given
    let backend = Backend::echo();
    let proxy = Config::to([backend.address()]).start();
    for text in ["SIG", "signal"] {
        proxy.expect_log(text);
    }
    let mut established = Conn::open(proxy.main());

    // when
    for _ in 0..50 {
        for signal in [Signal::HUP, Signal::USR1, Signal::USR2, Signal::PIPE, Signal::WINCH] {
            proxy.signal(signal);
        }

        // then
        established.echoes("through the storm");
        Conn::open(proxy.main()).echoes("a new session in the storm");
    }
    drop(established);
    proxy.finish();
}
