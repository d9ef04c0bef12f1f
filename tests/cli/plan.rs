//! `pocketlm plan`: what a model takes, and whether it fits.

use serde_json::Value;

use crate::common::folder;
use crate::program::*;

#[test]
fn plan_accounts_for_every_byte() {
    let plan = json(&stdout(run(&[
        "plan",
        STORY,
        "--context",
        "256",
        "--batch",
        "4",
        "--kv",
        "f16",
        "--json",
    ])));
    let sum = |memory: &Value| {
        memory["parts"]
            .as_object()
            .unwrap()
            .values()
            .map(|v| v.as_u64().unwrap())
            .sum::<u64>()
    };
    assert_eq!(
        plan["flash"]["total"],
        std::fs::metadata(STORY).unwrap().len()
    );
    assert_eq!(plan["flash"]["total"], sum(&plan["flash"]));
    assert_eq!(plan["ram"]["total"], sum(&plan["ram"]));
    assert_eq!(plan["fits"], true);
    // Layer 0 is a ring of 64 + 4 - 1 positions, in whole tiles; layer 1 keeps all 256. 2 heads of
    // 32 channels, keys and values, 2 bytes each.
    assert_eq!(plan["ram"]["parts"]["cache_layer_0"], 72 * 2 * 32 * 2 * 2);
    assert_eq!(plan["ram"]["parts"]["cache_layer_1"], 256 * 2 * 32 * 2 * 2);
}

#[test]
fn info_and_plan_tell_convolutions_from_attention() {
    let folder = folder::lfm2().write("model.safetensors");
    let model = path(folder.path());
    let info = stdout(run(&["info", model]));
    assert!(
        info.contains("attention_type             1 × convolution 3, 1 × global\n")
            && info.contains("block_0/convolution/in.weights"),
        "{info}"
    );
    let plan = ["plan", model, "--context", "64", "--batch", "4"];
    let table = stdout(run(&plan));
    assert!(
        table.contains("  convolution: ring of 6, window 3 "),
        "{table}"
    );
    let plan = json(&stdout(run(&[&plan[..], &["--json"]].concat())));
    // 3 + 4 - 1 positions, 8 channels, 4 bytes each.
    assert_eq!(plan["ram"]["parts"]["cache_layer_0"], 6 * 8 * 4);
}

#[test]
fn a_plan_that_does_not_fit_says_so_and_exits_with_1() {
    let output = run(&[
        "plan",
        STORY,
        "--context",
        "256",
        "--flash",
        "2M",
        "--ram",
        "64K",
    ]);
    assert_eq!(output.status.code(), Some(1));
    let table = String::from_utf8(output.stdout).unwrap();
    assert!(
        table.contains("missing") && table.contains("of 64.00 KiB") && table.contains("free"),
        "{table}"
    );
    let reason = String::from_utf8(output.stderr).unwrap();
    assert!(
        reason.contains("RAM lacks") && !reason.contains("flash"),
        "{reason}"
    );
    assert!(
        run(&[
            "plan",
            STORY,
            "--context",
            "256",
            "--flash",
            "2M",
            "--ram",
            "4MiB"
        ])
        .status
        .success()
    );
}

#[test]
fn plan_for_a_board_counts_code_and_stack_and_takes_its_memory_as_the_limits() {
    let plan =
        |more: &[&str]| run(&[&["plan", STORY, "--context", "256", "--kv", "q8"], more].concat());
    let alone = json(&stdout(plan(&["--json"])));
    let on_board = json(&stdout(plan(&["--board", "pico2", "--json"])));
    for (memory, part, limit) in [("flash", "code", 4 << 20), ("ram", "stack", 520 << 10)] {
        let added = on_board[memory]["parts"][part].as_u64().unwrap();
        assert!(added > 0);
        assert_eq!(
            on_board[memory]["total"],
            alone[memory]["total"].as_u64().unwrap() + added
        );
        assert_eq!(on_board[memory]["limit"], limit);
    }
    let refused = plan(&["--board", "stm32f411", "--ram", "64K"]);
    assert_eq!(refused.status.code(), Some(1));
    let line = String::from_utf8(refused.stderr).unwrap();
    assert!(
        line.contains("flash lacks") && line.contains("RAM lacks"),
        "{line}"
    );
    // Layers of one kind are one line.
    let lines = stdout(plan(&[]));
    assert_eq!(lines.matches("keys and values").count(), 2, "{lines}");
}

#[test]
fn plan_draws_a_chart() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("memory.svg");
    stdout(run(&[
        "plan",
        STORY,
        "--context",
        "64",
        "--ram",
        "1M",
        "--svg",
        path(&file),
    ]));
    let svg = std::fs::read_to_string(file).unwrap();
    assert!(
        svg.starts_with("<svg ") && svg.contains("keys and values: all 64, 4 layers"),
        "{svg}"
    );
}

#[test]
fn plan_writes_the_sizes_for_c() {
    let plan = |more: &[&str]| {
        let arguments = ["plan", STORY, "--context", "64", "--kv", "q8"];
        stdout(run(&[&arguments, more].concat()))
    };
    let header = plan(&["--c-header", "-"]);
    let defined = |name: &str| {
        let start = format!("#define PLM_{name} ");
        let value = header.lines().find_map(|line| line.strip_prefix(&start));
        value.expect(name).trim_end_matches('u').to_owned()
    };
    // The machine's folders are nobody's business.
    assert!(
        header.starts_with("/* pocketlm plan: story.plm\n"),
        "{header}"
    );
    let image = std::fs::read(STORY).unwrap();
    assert_eq!(defined("IMAGE_BYTES"), image.len().to_string());
    let checksum = u32::from_le_bytes(image[12..16].try_into().unwrap());
    assert_eq!(defined("IMAGE_CHECKSUM"), format!("{checksum:#010x}"));
    let sizes = json(&plan(&["--json"]));
    assert_eq!(defined("ARENA_BYTES"), sizes["ram"]["total"].to_string());
    assert_eq!(defined("KV"), "PLM_KV_Q8");
    // Standard output holds one thing; a file may be written beside it.
    let folder = tempfile::tempdir().unwrap();
    let [file, chart] = ["plan.h", "plan.svg"].map(|name| folder.path().join(name));
    let [file, chart] = [&file, &chart].map(|path| path.to_str().unwrap());
    assert_eq!(
        json(&plan(&["--json", "--svg", chart, "--c-header", file])),
        sizes
    );
    assert_eq!(std::fs::read_to_string(file).unwrap(), header);
    assert_eq!(plan(&["--svg", chart, "--c-header", "-"]), header);
    for other in [&["--json"][..], &["--svg", "-"]] {
        let arguments = ["plan", STORY, "--context", "8", "--c-header", "-"];
        let refused = run(&[&arguments, other].concat());
        assert_eq!(refused.status.code(), Some(2));
        let said = String::from_utf8(refused.stderr).unwrap();
        let said_expected = format!("{} and --c-header both write to standard output", other[0]);
        assert!(said.contains(&said_expected), "{said}");
    }
}
