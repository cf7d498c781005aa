//! The object that was built keeps what `dispatcher_common::maps` promises: names, types and sizes
//! of its maps, its program, and types that bpftool can print.

use std::process::Command;

use aya::maps::{Map, MapData, MapInfo};
use dispatcher_common::maps::{ALL, FLOWS, MapSpec, PROGRAM};
use dispatcher_tests::packet::Family;
use dispatcher_tests::program::{Program, Sizes, load, spec, xdp};
use dispatcher_user::datapath::OBJECT;

/// The data of a map, whatever its type.
fn data(map: &Map) -> &MapData {
    match map {
        Map::Array(data)
        | Map::HashMap(data)
        | Map::PerCpuArray(data)
        | Map::PerCpuHashMap(data)
        | Map::RingBuf(data)
        | Map::XskMap(data) => data,
        other => panic!("a map of a type that is not in the table: {other:?}"),
    }
}

fn number(spec: &MapSpec, info: &MapInfo) -> [(u64, u64); 3] {
    [
        (spec.key_size as u64, info.key_size().into()),
        (spec.value_size as u64, info.value_size().into()),
        (spec.max_entries.into(), info.max_entries().into()),
    ]
}

#[test]
fn the_maps_are_those_of_the_table() {
    let ebpf = aya::EbpfLoader::new().load(OBJECT).unwrap();
    let mut names: Vec<_> = ebpf.maps().map(|(name, _)| name.to_owned()).collect();
    // Constants of the program live in a map that the compiler makes.
    names.retain(|name| !name.starts_with(".rodata"));
    names.sort_unstable();
    let mut expected: Vec<_> = ALL.iter().map(|spec| spec.name.to_owned()).collect();
    expected.sort_unstable();
    assert_eq!(names, expected);
    for spec in &ALL {
        let info = data(ebpf.map(spec.name).unwrap()).info().unwrap();
        assert_eq!(
            info.map_type().unwrap() as u32,
            spec.kind,
            "{}: type",
            spec.name
        );
        for (promised, built) in number(spec, &info) {
            assert_eq!(promised, built, "{}: key, value or entries", spec.name);
        }
        assert!(spec.name.len() <= 15, "{}: the kernel cuts it", spec.name);
        assert_eq!(
            info.name_as_str(),
            Some(spec.name),
            "the kernel knows it by name"
        );
        // The program inserts nothing, so that no memory is taken on the packet path in any case.
        assert_eq!(info.map_flags(), spec.flags, "{}: flags", spec.name);
    }
}

#[test]
fn the_program_is_the_one_of_the_table() {
    let mut ebpf = load(Sizes::default());
    let names: Vec<_> = ebpf.programs().map(|(name, _)| name.to_owned()).collect();
    assert_eq!(names, [PROGRAM]);
    let info = xdp(&mut ebpf).info().unwrap();
    assert_eq!(info.name_as_str(), Some(PROGRAM));
    assert_eq!(
        info.gpl_compatible(),
        Some(true),
        "fib lookup and ring are for GPL programs"
    );
    assert!(
        info.btf_id().is_some(),
        "bpftool can print the source beside the program"
    );
}

#[test]
fn bpftool_prints_a_flow_by_field_name() {
    let mut program = Program::load();
    program.install(&spec(Family::V4));
    let id = program.flows_info.id().to_string();
    let output = Command::new("bpftool")
        .args(["--json", "map", "dump", "id", &id])
        .output()
        .expect("bpftool is installed (cargo xtask setup)");
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{error}");
    let dump: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let entries = dump.as_array().unwrap();
    assert_eq!(entries.len(), 2, "{}: one flow", FLOWS.name);
    for entry in entries {
        let formatted = &entry["formatted"];
        for field in ["src", "dst", "src_port", "dst_port"] {
            assert!(!formatted["key"][field].is_null(), "{field} in {formatted}");
        }
        for field in [
            "packets",
            "bytes",
            "translation",
            "next_hop",
            "phase",
            "last_seen",
        ] {
            assert!(
                !formatted["value"][field].is_null(),
                "{field} in {formatted}"
            );
        }
        assert_eq!(formatted["value"]["next_hop"]["mtu"], 1500);
    }
}
