//! The process of a pod: see `tests::traffic`.

fn main() -> anyhow::Result<()> {
    tests::traffic::run()
}
