//! Tarball and Debian package: what is in them.

use std::fs;
use std::path::Path;
use std::process::Command;

use dispatcher_tests::debian::succeed;
use dispatcher_tests::package;
use dispatcher_tests::scratch::Scratch;

/// All files of both, below `usr`, but for the manual.
const FILES: [&str; 17] = [
    "bin/dispatcher",
    "lib/systemd/system/dispatcher.service",
    "share/bash-completion/completions/dispatcher",
    "share/dispatcher/grafana/dispatcher.json",
    "share/dispatcher/prometheus/alerts.yml",
    "share/doc/dispatcher/ARCHITECTURE.md",
    "share/doc/dispatcher/README.md",
    "share/doc/dispatcher/SECURITY.md",
    "share/doc/dispatcher/changelog.gz",
    "share/doc/dispatcher/copyright",
    "share/doc/dispatcher/examples/one-armed.toml",
    "share/doc/dispatcher/examples/policies.toml",
    "share/doc/dispatcher/examples/two-armed.toml",
    "share/doc/dispatcher/third-party-licences.txt.gz",
    "share/fish/vendor_completions.d/dispatcher.fish",
    "share/man/man1/dispatcher.1.gz",
    "share/zsh/vendor-completions/_dispatcher",
];

/// Files of an archive, with what `tar` says of mode and owner.
fn listed(tar: &mut Command) -> Vec<(String, String)> {
    let text = succeed(tar).unwrap();
    let lines = text.lines().filter(|line| !line.starts_with('d'));
    let listed = lines.map(|line| {
        let words: Vec<_> = line.split_whitespace().collect();
        (words[5].to_owned(), format!("{} {}", words[0], words[1]))
    });
    let mut listed: Vec<_> = listed.collect();
    listed.sort();
    listed
}

fn expected(below: &str, more: &[&str]) -> Vec<(String, String)> {
    let files = FILES.iter().map(|file| format!("{below}{file}"));
    let manual = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs");
    let manual = fs::read_dir(manual).unwrap().map(|entry| {
        let name = entry.unwrap().file_name();
        format!("{below}share/doc/dispatcher/docs/{}", name.display())
    });
    let listed = files
        .chain(manual)
        .chain(more.iter().map(ToString::to_string))
        .map(|file| {
            let executable = file.ends_with("bin/dispatcher");
            let mode = if executable {
                "-rwxr-xr-x"
            } else {
                "-rw-r--r--"
            };
            (file, format!("{mode} 0/0"))
        });
    let mut expected: Vec<_> = listed.collect();
    expected.sort();
    expected
}

fn tar(arguments: &[&str], file: &Path) -> Command {
    let mut tar = Command::new("tar");
    tar.args(["--numeric-owner", "--list", "--verbose"])
        .args(arguments)
        .arg("--file")
        .arg(file);
    tar
}

#[test]
fn tarball_and_package_have_what_they_should() {
    let scratch = Scratch::new("package").unwrap();
    let once = scratch.path("made");
    package::make(&once).unwrap();
    assert_eq!(
        fs::read_dir(&once).unwrap().count(),
        2,
        "something is left beside them"
    );

    let tarball = package::find(&once, ".tar.gz").unwrap();
    let name = tarball.file_name().unwrap().to_string_lossy();
    let root = format!("{}/", name.strip_suffix(".tar.gz").unwrap());
    assert_eq!(
        listed(&mut tar(&["--gzip"], &tarball)),
        expected(&root, &[])
    );

    let package = package::find(&once, ".deb").unwrap();
    let data = scratch.path("data.tar");
    let mut open = Command::new("dpkg-deb");
    let bytes = open
        .arg("--fsys-tarfile")
        .arg(&package)
        .output()
        .unwrap()
        .stdout;
    fs::write(&data, bytes).unwrap();
    let in_package = expected("./usr/", &["./etc/default/dispatcher"]);
    assert_eq!(listed(&mut tar(&[], &data)), in_package);

    let field = |name: &str| {
        let mut ask = Command::new("dpkg-deb");
        let text = succeed(ask.arg("--field").arg(&package).arg(name)).unwrap();
        text.trim().to_owned()
    };
    assert_eq!(field("Package"), "dispatcher");
    for library in ["libc6 (>=", "libelf1 (>=", "zlib1g (>="] {
        assert!(field("Depends").contains(library), "{}", field("Depends"));
    }
}
