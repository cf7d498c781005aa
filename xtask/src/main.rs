//! x
fn main() -> anyhow::Result<()> {
    let out = xtask::bpf::target_directory().join("bpf");
    println!("{}", xtask::bpf::build(&out)?.display());
    Ok(())
}
