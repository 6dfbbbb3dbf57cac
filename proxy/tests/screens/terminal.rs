//! A command in terminals of several widths and in a pipe.

use std::{
    fs::File,
    io::Read as _,
    os::fd::{FromRawFd as _, OwnedFd},
    process::{Command, Stdio},
    ptr,
};

/// The output of a command in a terminal of this width, with the terminal's line ends removed.
pub fn in_terminal(mut command: Command, columns: u16) -> String {
    let size = libc::winsize { ws_row: 24, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    let (mut master, mut slave) = (-1, -1);
    // SAFETY: the three pointers are to values that outlive the call; name and settings are optional.
    let opened = unsafe {
        libc::openpty(&raw mut master, &raw mut slave, ptr::null_mut(), ptr::null(), &raw const size)
    };
    assert_eq!(opened, 0);
    // SAFETY: on success both are new descriptors without another owner.
    let (master, slave) = unsafe { (OwnedFd::from_raw_fd(master), OwnedFd::from_raw_fd(slave)) };
    let mut child = command.stdout(slave).stderr(Stdio::null()).spawn().unwrap();
    // The terminal is closed when its last user is gone.
    drop(command);
    let mut text = Vec::new();
    // A closed terminal reads as EIO.
    let _ = File::from(master).read_to_end(&mut text);
    child.wait().unwrap();
    String::from_utf8(text).unwrap().replace("\r\n", "\n")
}

/// Without the sequences that set a colour.
pub fn uncoloured(text: &str) -> String {
    let mut parts = text.split("\u{1b}[");
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |text, part| text + part.split_once('m').unwrap().1)
}

/// The same screen everywhere: in terminals of two widths and in a pipe, for every environment. Returns the screen.
/// `steady` replaces numbers that change with time.
pub fn screen(command: impl Fn() -> Command, has_colour: bool, steady: impl Fn(&str) -> String) -> String {
    let piped = |environment: (&str, &str)| {
        let mut command = command();
        command.env_remove("NO_COLOR").env_remove("COLUMNS").env(environment.0, environment.1);
        steady(&String::from_utf8(command.output().unwrap().stdout).unwrap())
    };
    let want = piped(("COLUMNS", "80"));
    for environment in
        [("COLUMNS", "160"), ("NO_COLOR", "1"), ("LANG", "C"), ("LC_ALL", "C"), ("TERM", "dumb")]
    {
        assert_eq!(piped(environment), want, "{environment:?}");
    }
    for columns in [80, 160] {
        let mut plain = command();
        plain.env("NO_COLOR", "1");
        assert_eq!(steady(&in_terminal(plain, columns)), want, "at {columns} columns, NO_COLOR");
        let mut coloured = command();
        coloured.env_remove("NO_COLOR").env("TERM", "xterm-256color");
        let coloured = in_terminal(coloured, columns);
        assert_eq!(steady(&uncoloured(&coloured)), want, "at {columns} columns");
        assert_eq!(coloured.contains('\u{1b}'), has_colour, "colour is for terminals: {coloured:?}");
    }
    assert!(want.is_ascii(), "readable in every locale: {want}");
    want
}
