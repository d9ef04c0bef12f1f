//! Conversations: what is refused, what is kept, and how it goes at a terminal.

use std::path::Path;
use std::process::Output;

use crate::model;
use crate::program::{path, prompt_lengths, run, run_with_input, stdout};

/// A conversation that is read from a pipe: greedy, with short answers.
fn chat(model: &Path, more: &[&str], input: impl AsRef<[u8]>) -> Output {
    let arguments = ["chat", path(model), "--temperature", "0", "-n", "8"];
    let context = if more.contains(&"-c") {
        &[][..]
    } else {
        &["-c", "400"]
    };
    run_with_input(&[&arguments[..], context, more].concat(), input)
}

fn notes(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// The lines that say what was refused.
fn refusals(output: &Output) -> Vec<String> {
    let lines = notes(output);
    let lines = lines
        .lines()
        .filter_map(|line| line.strip_prefix("error: "));
    lines.map(str::to_owned).collect()
}

#[test]
fn what_is_refused_is_no_part_of_the_conversation_which_goes_on() {
    let model = model::chatting();
    let plain = chat(model.path(), &[], "Hi\nAnd now?\n");
    assert!(plain.status.success(), "{plain:?}");
    let long = "very ".repeat(200) + "long\n";
    for (refused, reason) in [
        (&b"caf\xe9\n"[..], "standard input, line 2: not UTF-8"),
        (
            b"\"\"\"\nok\n\xff\n\"\"\"\n",
            "standard input, line 4: not UTF-8",
        ),
        (long.as_bytes(), "and no longer fits the context of 400"),
        (b"/nonsense\n", "/nonsense is not a command"),
        (b"/save\n", "/save needs a file"),
        (b"/load missing\n", "missing: cannot be opened"),
        (b"/load /\n", "/: "),
        (b"/clear all\n", "`all` comes after it"),
        (b"/system no\n", "no such system"),
    ] {
        let output = chat(
            model.path(),
            &[],
            [b"Hi\n", refused, b"And now?\n"].concat(),
        );
        let lines = refusals(&output);
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        assert!(lines.len() == 2 && lines[0].contains(reason), "{lines:?}");
        assert_eq!(lines[1], "1 input refused, see above");
        // Both answers are those of the conversation without it.
        assert_eq!(output.stdout, plain.stdout, "{reason}");
        assert_eq!(
            prompt_lengths(&notes(&output)),
            prompt_lengths(&notes(&plain))
        );
    }
    // The first message may be the one that is refused.
    let output = chat(
        model.path(),
        &[],
        [b"\xff\n", &b"Hi\nAnd now?\n"[..]].concat(),
    );
    assert_eq!(output.stdout, plain.stdout);
    // A block without an end is not sent.
    let output = chat(model.path(), &[], "Hi\nAnd now?\n\"\"\"\nmore\n");
    assert_eq!(
        (output.status.code(), &output.stdout),
        (Some(1), &plain.stdout)
    );
}

#[test]
fn an_answer_with_nan_logits_is_refused() {
    let model = model::overflowing();
    let output = chat(model.path(), &[], "Hi\nAnd now?\n");
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let lines = refusals(&output);
    assert_eq!(lines.len(), 3, "{lines:?}");
    // Both times, for nothing was said.
    assert!(lines[0].contains("is not a number"), "{lines:?}");
    assert!(lines[1].contains("is not a number"), "{lines:?}");
}

#[test]
fn a_full_context_offers_a_new_conversation() {
    let model = model::chatting();
    let more = &["-n", "1000", "-c", "60"][..];
    let output = run_with_input(
        &[&["chat", path(model.path()), "--temperature", "0"], more].concat(),
        "Hi\nAnd now?\n/clear\nHi\n",
    );
    let said = notes(&output);
    assert_eq!(
        said.matches("the context is full: /clear begins").count(),
        2,
        "{said}"
    );
    let lines = refusals(&output);
    assert!(lines.len() == 2 && lines[0].contains("/clear"), "{lines:?}");
    // After /clear it is as at the start.
    let (first, second) = output.stdout.split_at(output.stdout.len() / 2);
    assert!(!first.is_empty() && first == second, "{output:?}");
}

#[test]
fn lines_between_fences_are_one_message() {
    let model = model::chatting();
    let length = |input: &str| {
        let output = chat(model.path(), &[], input);
        assert!(output.status.success(), "{output:?}");
        prompt_lengths(&notes(&output))
    };
    // A token a byte, so that lengths tell what was said.
    let one = length("x\n");
    let [x] = one[..] else { panic!("{one:?}") };
    assert_eq!(
        length("\"\"\"\nab\n\ncd\n\"\"\"\n"),
        [x + "ab\n\ncd".len() - 1]
    );
    assert_eq!(length("\"\"\"ab\ncd\"\"\"\r\n"), [x + "ab\ncd".len() - 1]);
    assert_eq!(length("\"\"\"/help\"\"\"\n"), [x + "/help".len() - 1]);
    assert_eq!(length("\"\"\"\n\"\"\"\n \n\nx"), [x]);
    assert_eq!(length("//help\n"), [x + "/help".len() - 1]);
    assert_eq!(length(" /help\n"), [x + " /help".len() - 1]);
    assert_eq!(length("x\n/bye\nx\n"), [x]);
    assert_eq!(length("/help\nx\n/quit"), [x]);
}

#[test]
fn the_system_message_can_be_changed() {
    let model = model::chatting();
    let given = chat(model.path(), &["--system", "Be brief."], "Hi\n");
    assert_eq!(
        chat(model.path(), &[], "/system  Be brief. \nHi\n").stdout,
        given.stdout
    );
    let without = chat(model.path(), &[], "Hi\n");
    let taken = chat(model.path(), &["--system", "Be brief."], "/system\nHi\n");
    assert_eq!(taken.stdout, without.stdout);
    assert_ne!(given.stdout, without.stdout);
    // /clear leaves it.
    let cleared = chat(model.path(), &["--system", "Be brief."], "Hi\n/clear\nHi\n");
    assert_eq!(cleared.stdout, given.stdout.repeat(2));
    let refused = chat(model.path(), &["--system", "no"], "Hi\n");
    assert_eq!((refused.status.code(), refused.stdout.len()), (Some(1), 0));
}

#[test]
fn a_saved_conversation_continues_after_it_is_loaded() {
    let model = model::chatting();
    let scratch = tempfile::tempdir().unwrap();
    let file = scratch.path().join("a talk.kv");
    let save = format!("/save {}\n", path(&file));
    let load = format!("/load {}\n", path(&file));
    let whole = chat(
        model.path(),
        &["--system", "Be."],
        "Hi é\n\"\"\"\nAnd\nnow?\"\"\"\nSo?\n",
    );
    let told = stdout(whole.clone());
    let input = format!("Hi é\n\"\"\"\nAnd\nnow?\"\"\"\n{save}{save}");
    let first = chat(model.path(), &["--system", "Be."], input);
    assert!(
        notes(&first).contains("saved") && notes(&first).contains("5 messages"),
        "{first:?}"
    );
    let first = stdout(first);
    assert!(told.starts_with(&first));

    for before in ["", "Something else\n", "/system Other.\n"] {
        let second = chat(model.path(), &[], format!("{before}{load}So?\n"));
        assert!(second.status.success(), "{second:?}");
        assert!(
            second.stdout.ends_with(&whole.stdout[first.len()..]),
            "{before}: {second:?}"
        );
        // What was computed before is not computed again; that is the last token as well.
        let [lengths, whole] = [&second, &whole].map(|output| prompt_lengths(&notes(output)));
        assert_eq!(
            lengths.last().map(|length| length + 1),
            whole.last().copied()
        );
    }

    // `run` goes on with the whole text, the last of 2 × 8 tokens included: a turn counts the last
    // token of the answer before it.
    let snapshot = |more: &[&str]| {
        let arguments = [
            "run",
            path(model.path()),
            "--snapshot",
            path(&file),
            "-p",
            "x",
        ];
        run(&[&arguments[..], &["-n", "4", "--temperature", "0"], more].concat())
    };
    stdout(snapshot(&[]));
    let too_short = snapshot(&["-c", "20"]);
    let given = prompt_lengths(&notes(&whole))[..2].iter().sum::<usize>() + 2 * 8;
    assert!(
        notes(&too_short).contains(&format!("the prompt has {given} tokens")),
        "{given} {too_short:?}"
    );

    // Only a snapshot is replaced, and only by one that was written whole.
    let weights = model.path().join("model.safetensors");
    let before = std::fs::read(&weights).unwrap();
    let output = chat(model.path(), &[], format!("Hi\n/save {}\n", path(&weights)));
    assert_eq!(
        (output.status.code(), std::fs::read(&weights).unwrap()),
        (Some(1), before)
    );
    assert!(refusals(&chat(model.path(), &[], &save))[0].contains("nothing was said yet"));
    assert!(stdout(chat(model.path(), &[], format!("{load}So?\n"))).len() > 1);
}

#[test]
fn a_snapshot_that_does_not_fit_says_why_and_changes_nothing() {
    let model = model::chatting();
    let scratch = tempfile::tempdir().unwrap();
    let [talk, text, other] = ["talk", "text", "other"].map(|name| scratch.path().join(name));
    let saved = chat(model.path(), &[], format!("Hi\n/save {}\n", path(&talk)));
    assert!(saved.status.success(), "{saved:?}");
    let snapshot = [
        "snapshot",
        path(model.path()),
        "-p",
        "Hi",
        "-o",
        path(&text),
    ];
    stdout(run(&snapshot));
    let bytes = std::fs::read(&talk).unwrap();
    let cut = scratch.path().join("cut");
    std::fs::write(&cut, &bytes[..bytes.len() - 5]).unwrap();
    let damaged = scratch.path().join("damaged");
    let mut other_bytes = bytes.clone();
    other_bytes[60] ^= 1;
    std::fs::write(&damaged, other_bytes).unwrap();
    std::fs::write(&other, "no snapshot at all").unwrap();
    let plain = chat(model.path(), &[], "So\nHi\n");
    for (file, more, reason) in [
        (&text, &[][..], "holds no conversation"),
        (&cut, &[], "messages after the snapshot are damaged"),
        (&damaged, &[], "damaged"),
        (&other, &[], "no snapshot"),
        (&talk, &["--kv", "q8"], "start chat with --kv f32"),
        (&talk, &["-c", "22"], "start chat with a longer --context"),
    ] {
        let load = format!("/load {}\n", path(file));
        let output = chat(model.path(), more, format!("So\n{load}Hi\n"));
        assert_eq!(output.status.code(), Some(1));
        let lines = refusals(&output);
        let of_file = lines.iter().find(|line| line.starts_with(path(file)));
        assert!(
            of_file.is_some_and(|line| line.contains(reason)),
            "{lines:?}"
        );
        if more.is_empty() {
            assert_eq!(output.stdout, plain.stdout);
        }
    }
}

#[cfg(target_os = "linux")]
mod at_a_terminal {
    use std::io::{Read, Write};
    use std::process::{Child, Command, Stdio};
    use std::sync::{Arc, Mutex};
    use std::time::{Duration, Instant};

    use super::*;

    /// A program at a terminal of its own, which `script` (util-linux) makes.
    struct Terminal {
        child: Child,
        shown: Arc<Mutex<Vec<u8>>>,
        /// How much of what is shown was looked at.
        seen: usize,
    }

    impl Terminal {
        /// `None`, said on stderr, where there is no `script`.
        fn start(arguments: &[&str]) -> Option<Terminal> {
            let quoted = |argument: &&str| format!("'{argument}'");
            let arguments: Vec<_> = arguments.iter().map(quoted).collect();
            let program = env!("CARGO_BIN_EXE_pocketlm");
            let child = Command::new("script")
                .args([
                    "-qefc",
                    &format!("'{program}' {}", arguments.join(" ")),
                    "/dev/null",
                ])
                .env("TERM", "xterm")
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn();
            let Ok(mut child) = child else {
                eprintln!("not checked: there is no `script`");
                return None;
            };
            let mut output = child.stdout.take().unwrap();
            let shown = Arc::new(Mutex::new(Vec::new()));
            let to = shown.clone();
            std::thread::spawn(move || {
                let mut buffer = [0; 4096];
                while let Ok(length @ 1..) = output.read(&mut buffer) {
                    to.lock().unwrap().extend_from_slice(&buffer[..length]);
                }
            });
            Some(Terminal {
                child,
                shown,
                seen: 0,
            })
        }

        fn press(&mut self, keys: &str) {
            self.press_bytes(keys.as_bytes());
        }

        fn press_bytes(&mut self, keys: &[u8]) {
            let stdin = self.child.stdin.as_mut().unwrap();
            stdin.write_all(keys).unwrap();
            stdin.flush().unwrap();
        }

        /// Waits until `text` is shown, after what was looked at before.
        fn expect(&mut self, text: &str) -> String {
            let start = Instant::now();
            loop {
                let shown = self.shown.lock().unwrap()[self.seen..].to_vec();
                let place = shown
                    .windows(text.len())
                    .position(|it| it == text.as_bytes());
                if let Some(place) = place {
                    self.seen += place + text.len();
                    return String::from_utf8_lossy(&shown[..place]).into_owned();
                }
                let shown = String::from_utf8_lossy(&shown);
                assert!(
                    start.elapsed() < Duration::from_secs(60),
                    "no {text:?} in {shown:?}"
                );
                std::thread::sleep(Duration::from_millis(5));
            }
        }

        /// Waits until some of an answer is shown.
        fn expect_answer(&mut self) {
            // The editor lets go of the terminal.
            self.expect("\x1b[?2004l\r\n");
            let start = Instant::now();
            while self.shown.lock().unwrap().len() < self.seen + 20 {
                assert!(start.elapsed() < Duration::from_secs(60), "no answer");
                std::thread::sleep(Duration::from_millis(5));
            }
        }

        fn exit_code(mut self) -> Option<i32> {
            let start = Instant::now();
            while start.elapsed() < Duration::from_secs(60) {
                if let Some(status) = self.child.try_wait().unwrap() {
                    return status.code();
                }
                std::thread::sleep(Duration::from_millis(5));
            }
            _ = self.child.kill();
            panic!("it goes on");
        }
    }

    /// How the editor shows that it waits.
    const PROMPT: &str = "> \x1b[0m";
    const CTRL_C: &str = "\x03";
    const CTRL_D: &str = "\x04";

    #[test]
    fn ctrl_c_stops_the_answer_and_the_next_one_ends_the_program() {
        let model = model::chatting();
        // Room for an answer that takes longer than this test.
        let arguments = [
            "chat",
            path(model.path()),
            "--temperature",
            "0",
            "--lookup",
            "0",
        ];
        let endless = [&arguments[..], &["-t", "1", "-c", "1000000", "--kv", "q8"]].concat();
        let Some(mut terminal) = Terminal::start(&endless) else {
            return;
        };
        terminal.expect(PROMPT);
        for message in ["Hi\r", "And now?\r"] {
            terminal.press(message);
            terminal.expect_answer();
            terminal.press(CTRL_C);
            terminal.expect("; stopped");
            terminal.expect(PROMPT);
        }
        // It has both answers.
        let scratch = tempfile::tempdir().unwrap();
        let file = scratch.path().join("talk.kv");
        terminal.press(&format!("/save {}\r", path(&file)));
        terminal.expect(": 4 messages, ");
        terminal.expect(PROMPT);
        terminal.press("Hi\r");
        terminal.expect_answer();
        terminal.press(CTRL_C);
        terminal.expect("; stopped");
        terminal.expect(PROMPT);
        terminal.press(CTRL_C);
        assert_eq!(terminal.exit_code(), Some(130));
    }

    #[test]
    fn ctrl_c_at_the_prompt_takes_two() {
        let model = model::chatting();
        let arguments = ["chat", path(model.path()), "--temperature", "0", "-n", "4"];
        let Some(mut terminal) = Terminal::start(&arguments) else {
            return;
        };
        terminal.expect(PROMPT);
        terminal.press(CTRL_C);
        terminal.expect("Ctrl-C again, or Ctrl-D, ends");
        terminal.expect(PROMPT);
        // What was typed is taken back first, and a message makes it the first of two again.
        terminal.press("not this");
        terminal.expect("not this");
        terminal.press(&format!("{CTRL_C}Hi\r"));
        terminal.expect("prompt ");
        terminal.expect(PROMPT);
        terminal.press(CTRL_C);
        terminal.expect("Ctrl-C again, or Ctrl-D, ends");
        terminal.expect(PROMPT);
        terminal.press(CTRL_C);
        assert_eq!(terminal.exit_code(), Some(130));
    }

    #[test]
    fn lines_that_are_pasted_or_fenced_are_one_message_and_ctrl_d_ends() {
        let model = model::chatting();
        let arguments = ["chat", path(model.path()), "--temperature", "0", "-n", "4"];
        let Some(mut terminal) = Terminal::start(&arguments) else {
            return;
        };
        let mut prompt_of = |keys: &str| {
            terminal.expect(PROMPT);
            terminal.press(keys);
            terminal.expect("prompt ");
            let length = terminal.expect(" tokens, ");
            length.parse::<usize>().expect(&length)
        };
        let x = prompt_of("x\r");
        let y = prompt_of("y\r");
        let pasted = prompt_of("\x1b[200~a\rb\n/c\x1b[201~\r");
        assert_eq!(pasted, y + "a\nb\n/c".len() - 1, "{x}");
        let fenced = prompt_of("\"\"\"\ra\r/b\r\"\"\"\r");
        assert_eq!(fenced, y + "a\n/b".len() - 1);
        // The keys of several messages may come while an answer is written.
        terminal.expect(PROMPT);
        terminal.press("x\ry\r/nonsense\r");
        terminal.expect("prompt ");
        terminal.expect("prompt ");
        terminal.expect("/nonsense is not a command");
        // What is no text is no message, and the conversation goes on.
        terminal.expect(PROMPT);
        terminal.press_bytes(b"caf\xe9 x\r");
        terminal.expect("not UTF-8");
        terminal.expect(PROMPT);
        terminal.press(CTRL_D);
        assert_eq!(terminal.exit_code(), Some(0));
    }

    #[test]
    fn a_prompt_is_asked_for_before_the_model_is_packed() {
        // Nobody has looked at the model yet.
        let Some(mut terminal) = Terminal::start(&["run", "missing.gguf", "-n", "3"]) else {
            return;
        };
        terminal.expect("The text to continue");
        terminal.expect(PROMPT);
        terminal.press("Once\r");
        terminal.expect("missing.gguf: No such file");
        assert_eq!(terminal.exit_code(), Some(1));

        let arguments = [
            "run",
            crate::program::STORY,
            "-n",
            "3",
            "--temperature",
            "0",
        ];
        let mut terminal = Terminal::start(&arguments).unwrap();
        terminal.expect(PROMPT);
        terminal.press("Once\r");
        terminal.expect("Once upon a time");
        assert_eq!(terminal.exit_code(), Some(0));

        let mut terminal = Terminal::start(&arguments).unwrap();
        terminal.expect(PROMPT);
        terminal.press(CTRL_D);
        terminal.expect("no prompt");
        assert_eq!(terminal.exit_code(), Some(1));
    }

    #[test]
    fn binary_output_does_not_go_to_a_terminal() {
        let model = model::chatting();
        for command in ["pack", "snapshot", "logits"] {
            let more: &[&str] = match command {
                "pack" => &[],
                "snapshot" => &["-p", "x"],
                _ => &["--tokens", "1"],
            };
            let arguments = [&[command, path(model.path()), "-o", "-"], more].concat();
            let Some(mut terminal) = Terminal::start(&arguments) else {
                return;
            };
            terminal.expect("redirect standard output, or name a file");
            assert_eq!(terminal.exit_code(), Some(2));
        }
    }
}
