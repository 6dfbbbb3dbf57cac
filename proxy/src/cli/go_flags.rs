//! Go's flag syntax, as manifests of kube-proxy use it: `-v=2`, and underscores in flag names.

use std::ffi::OsString;

pub fn normalize(args: impl IntoIterator<Item = OsString>) -> impl Iterator<Item = OsString> {
    let mut is_over = false;
    args.into_iter().map(move |arg| {
        is_over |= arg == "--";
        match arg.to_str() {
            Some(text) if !is_over => OsString::from(normalize_flag(text)),
            _ => arg,
        }
    })
}

fn normalize_flag(arg: &str) -> String {
    if let Some(level) = arg.strip_prefix("-v").map(|rest| rest.strip_prefix('=').unwrap_or(rest))
        && !level.is_empty()
        && level.bytes().all(|byte| byte.is_ascii_digit())
    {
        return format!("--v={level}");
    }
    match arg.split_once('=') {
        _ if !arg.starts_with("--") => arg.to_owned(),
        Some((name, value)) => format!("{}={value}", name.replace('_', "-")),
        None => arg.replace('_', "-"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn go_syntax_is_normalized() {
        let cases: &[(&[&str], &[&str])] = &[
            (&["-v=2"], &["--v=2"]),
            (&["-v4"], &["--v=4"]),
            (&["-v"], &["-v"]),
            (&["-vv"], &["-vv"]),
            (&["-v=x"], &["-v=x"]),
            (&["--v=2"], &["--v=2"]),
            (&["--cluster_cidr=10.0.0.0/8"], &["--cluster-cidr=10.0.0.0/8"]),
            (&["--node-name=a_b"], &["--node-name=a_b"]),
            (&["--node_name", "a_b"], &["--node-name", "a_b"]),
            (&["-o", "json"], &["-o", "json"]),
            (&["--", "-v=2", "--a_b"], &["--", "-v=2", "--a_b"]),
        ];
        for (given, want) in cases {
            let got: Vec<OsString> = normalize(given.iter().map(OsString::from)).collect();
            assert_eq!(got, *want, "{given:?}");
        }
    }
}
