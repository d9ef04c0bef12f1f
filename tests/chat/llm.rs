//! Models, sessions and conversations that a program owns.

use std::io::Write;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};

use pocketlm::chat::{Chat, Message};
use pocketlm::generate::End;
use pocketlm::host::{
    Error, GenerateOptions, Generated, Image, Llm, LlmSession, Sampling, SessionOptions,
};
use pocketlm::text::EncodeOptions;

use crate::gguf;

const STORY: &str = "src/bin/pocketlm/story/story.plm";

/// A chat model, and the folder that it is in.
fn chat_model() -> (PathBuf, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("chat.gguf");
    gguf::write(&path);
    (path, folder)
}

fn chat_llm() -> Llm {
    Llm::open(chat_model().0).unwrap()
}

fn greedy(context: u32) -> SessionOptions {
    SessionOptions {
        context: Some(context),
        threads: 1,
        sampling: Sampling::GREEDY,
        ..Default::default()
    }
}

fn limit(limit: usize) -> GenerateOptions {
    GenerateOptions {
        limit,
        ..Default::default()
    }
}

fn go_on(_: &str) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

fn story(session: &mut LlmSession, prompt: &str) -> Generated {
    session.generate(prompt, &limit(40), go_on).unwrap()
}

#[test]
fn models_are_shared_and_sessions_move_between_threads() {
    fn is_shared<T: Clone + Send + Sync + 'static>() {}
    fn moves<T: Send + 'static>() {}
    fn is_an_error<T: Into<Box<dyn std::error::Error + Send + Sync>>>() {}
    is_shared::<Llm>();
    moves::<LlmSession>();
    moves::<Chat>();
    is_an_error::<Error>();

    let llm = Llm::open(STORY).unwrap();
    let prompts = ["Once upon a time", "Tom had a red ball"];
    let alone = prompts.map(|prompt| story(&mut llm.session(&greedy(200)).unwrap(), prompt).text);
    assert_ne!(alone[0], alone[1]);
    // The sessions keep the model alive.
    let sessions = prompts.map(|prompt| (llm.session(&greedy(200)).unwrap(), prompt));
    drop(llm);
    let threads = sessions.map(|(mut session, prompt)| {
        std::thread::spawn(move || {
            let first = story(&mut session, prompt).text;
            session.reset();
            assert_eq!(story(&mut session, prompt).text, first);
            first
        })
    });
    assert_eq!(threads.map(|thread| thread.join().unwrap()), alone);
}

#[test]
fn threads_batches_and_drafts_change_no_text() {
    let llm = Llm::open(STORY).unwrap();
    let prompt = "Once upon a time there was a dog. The dog was big. The dog";
    let expected = story(&mut llm.session(&greedy(200)).unwrap(), prompt);
    assert_eq!(expected.tokens, 40);
    assert_eq!(expected.end, Some(End::Limit));
    for (threads, batch, drafts) in [(2, None, 7), (1, Some(3), 2), (0, Some(1), 0)] {
        let options = SessionOptions {
            threads,
            batch,
            drafts,
            ..greedy(200)
        };
        let found = story(&mut llm.session(&options).unwrap(), prompt);
        assert_eq!(
            (found.text, found.end),
            (expected.text.clone(), expected.end)
        );
        assert!(drafts > 0 || found.drafted == 0);
    }
}

#[test]
fn a_text_continues_where_it_ended() {
    let llm = Llm::open(STORY).unwrap();
    let whole = llm
        .session(&greedy(200))
        .unwrap()
        .generate("Once upon a time", &limit(30), go_on)
        .unwrap();
    let mut session = llm.session(&greedy(200)).unwrap();
    let mut text = String::new();
    for (prompt, tokens) in [("Once upon a time", 7), ("", 1), ("", 22)] {
        text += &session
            .generate(prompt, &limit(tokens), go_on)
            .unwrap()
            .text;
    }
    assert_eq!(text, whole.text);
    assert_eq!(session.tokens().len(), 5 + 30);
    // What is there is not computed again.
    let mut ids = session.tokens();
    let tokenizer = session.llm().tokenizer();
    let more = EncodeOptions {
        add_special_tokens: false,
        parse_special: false,
    };
    ids.extend(tokenizer.encode_to_vec(" Then", more).unwrap());
    let generated = session.complete(&ids, &limit(1), go_on).unwrap();
    assert_eq!(generated.prompt_tokens, 1 + ids.len() - 35);
}

#[test]
fn a_prompt_in_parts_has_the_tokens_of_the_whole() {
    let llm = Llm::open(STORY).unwrap();
    let mut session = llm.session(&greedy(200)).unwrap();
    for part in ["Once upon", " a time", " there", " was"] {
        let generated = session.generate(part, &limit(0), go_on).unwrap();
        assert_eq!((generated.tokens, generated.end), (0, Some(End::Limit)));
    }
    let whole = "Once upon a time there was";
    let ids = llm
        .tokenizer()
        .encode_to_vec(whole, EncodeOptions::default());
    assert_eq!(session.tokens(), ids.unwrap());
}

#[test]
fn what_was_held_back_is_part_of_a_cancelled_text() {
    let llm = Llm::open(STORY).unwrap();
    let mut session = llm.session(&greedy(200)).unwrap();
    let whole = story(&mut session, "Once upon a time").text;
    session.reset();
    // The name may begin this, so it is held back.
    let options = GenerateOptions {
        stop_strings: vec!["Lily was not there".into()],
        ..limit(40)
    };
    let mut written = String::new();
    let first = session.generate("Once upon a time", &options, |text| {
        written.push_str(text);
        if written.ends_with("named ") {
            return ControlFlow::Break(());
        }
        go_on(text)
    });
    let first = first.unwrap();
    assert_eq!(first.end, None);
    assert!(first.text.len() > written.len(), "{}", first.text);
    let rest = session
        .generate("", &limit(40 - first.tokens), go_on)
        .unwrap();
    assert_eq!(first.text + &rest.text, whole);
}

#[test]
fn a_stop_string_ends_a_text_and_is_not_part_of_it() {
    let llm = Llm::open(STORY).unwrap();
    let mut session = llm.session(&greedy(200)).unwrap();
    let full = story(&mut session, "Once upon a time").text;
    let sentences: Vec<&str> = full.split('.').collect();
    session.reset();
    let options = GenerateOptions {
        stop_strings: vec!["no such text".into(), ". ".into()],
        ..limit(40)
    };
    let mut pieces = String::new();
    let generated = session.generate("Once upon a time", &options, |text| {
        pieces.push_str(text);
        go_on(text)
    });
    let generated = generated.unwrap();
    assert_eq!(generated.end, Some(End::StopString(1)));
    assert_eq!(generated.text, sentences[0]);
    assert_eq!(pieces, generated.text);
}

#[test]
fn another_thread_cancels_a_text_and_it_can_be_continued() {
    let llm = chat_llm();
    let options = SessionOptions {
        kv: pocketlm::model::Kv::Q8,
        ..greedy(100_000)
    };
    let mut session = llm.session(&options).unwrap();
    let cancelled = Arc::new(AtomicBool::new(false));
    let flag = cancelled.clone();
    let (started, is_started) = mpsc::channel();
    let thread = std::thread::spawn(move || {
        let generated = session.generate("Hi", &GenerateOptions::default(), |text| {
            if !text.is_empty() {
                _ = started.send(());
            }
            if flag.load(Ordering::Relaxed) {
                return ControlFlow::Break(());
            }
            go_on(text)
        });
        (generated.unwrap(), session)
    });
    is_started.recv().unwrap();
    cancelled.store(true, Ordering::Relaxed);
    let (first, mut session) = thread.join().unwrap();
    assert_eq!(first.end, None);
    assert!(first.tokens > 0);
    assert_eq!(first.text.len(), first.tokens);

    let second = session.generate("", &limit(20), go_on).unwrap();
    let mut fresh = llm.session(&options).unwrap();
    let whole = fresh.generate("Hi", &limit(first.tokens + 20), go_on);
    assert_eq!(first.text + &second.text, whole.unwrap().text);
}

#[test]
fn a_long_prompt_is_cancelled_between_its_pieces() {
    let llm = chat_llm();
    let prompt = "abc ".repeat(250);
    let whole = llm
        .session(&greedy(1200))
        .unwrap()
        .generate(&prompt, &limit(5), go_on)
        .unwrap();
    let mut session = llm.session(&greedy(1200)).unwrap();
    let (progress, seen) = mpsc::channel();
    session.on_prompt(move |done, total| _ = progress.send((done, total)));
    let mut calls = 0;
    let generated = session.generate(&prompt, &limit(5), |text| {
        assert_eq!(text, "");
        calls += 1;
        if calls == 2 {
            return ControlFlow::Break(());
        }
        ControlFlow::Continue(())
    });
    let generated = generated.unwrap();
    assert_eq!((generated.end, generated.tokens), (None, 0));
    let fed = session.tokens().len();
    assert!(fed > 0 && fed < 1000);
    assert_eq!(generated.prompt_tokens, fed);
    assert_eq!(seen.try_iter().last(), Some((fed, whole.prompt_tokens)));
    // The same prompt again computes the rest.
    let ids = llm
        .tokenizer()
        .encode_to_vec(&prompt, EncodeOptions::default());
    let generated = session.complete(&ids.unwrap(), &limit(5), go_on).unwrap();
    assert_eq!(generated.text, whole.text);
    assert_eq!(generated.prompt_tokens, whole.prompt_tokens - fed);
    let total = generated.prompt_tokens;
    assert_eq!(seen.try_iter().last(), Some((total, total)));
}

#[test]
fn a_seed_gives_the_same_text_and_penalties_see_the_whole_text() {
    let llm = Llm::open(STORY).unwrap();
    let sampling = |seed| Sampling {
        temperature: 1.5,
        repeat_penalty: 1.3,
        seed,
        ..Default::default()
    };
    let mut session = llm.session(&greedy(200)).unwrap();
    let mut text = |seed| {
        session.reset();
        session.set_sampling(&sampling(seed));
        story(&mut session, "Once upon a time").text
    };
    let first = text(Some(7));
    assert_eq!(text(Some(7)), first);
    assert_ne!(text(Some(8)), first);
    assert_ne!(text(None), text(None));
}

#[test]
fn a_turn_computes_what_is_new_and_gives_what_the_whole_conversation_gives() {
    let llm = chat_llm();
    let new = || Chat::new(llm.session(&greedy(600)).unwrap()).unwrap();
    let mut chat = new();
    chat.set_system(Some("Be brief.")).unwrap();
    let first = chat.say("Hi", &limit(8), go_on).unwrap();
    let second = chat.say("And now? </s>", &limit(8), go_on).unwrap();
    let said: Vec<(&str, &str)> = chat
        .messages()
        .iter()
        .map(|message| (message.role, message.content.as_str()))
        .collect();
    assert_eq!(
        said,
        [
            ("system", "Be brief."),
            ("user", "Hi"),
            ("assistant", &first.text),
            ("user", "And now? </s>"),
            ("assistant", &second.text),
        ]
    );
    // The last token of the answer, `</s>`, and the message between its tokens. The `</s>` that the
    // user wrote is four characters.
    let new_tokens = 1 + 1 + "\u{1}user\nAnd now? </s>\u{1}\u{1}assistant\n".len();
    assert_eq!(second.prompt_tokens, new_tokens);

    let mut other = new();
    let all_but_last = chat.messages()[..3].to_vec();
    other.set_messages(all_but_last);
    let whole = other.say("And now? </s>", &limit(8), go_on).unwrap();
    assert_eq!(whole.text, second.text);
    assert!(whole.prompt_tokens > second.prompt_tokens);

    chat.clear();
    assert_eq!(chat.messages().len(), 1);
    assert_eq!(chat.say("Hi", &limit(8), go_on).unwrap().text, first.text);
}

#[test]
fn a_stop_string_or_a_cancel_ends_an_answer() {
    let llm = chat_llm();
    let mut chat = Chat::new(llm.session(&greedy(600)).unwrap()).unwrap();
    let free = chat.say("Hi", &limit(20), go_on).unwrap().text;
    let stop = &free[5..7];
    let before = &free[..free.find(stop).unwrap()];
    chat.clear();
    let options = GenerateOptions {
        stop_strings: vec![stop.into()],
        ..limit(20)
    };
    let stopped = chat.say("Hi", &options, go_on).unwrap();
    assert_eq!(
        (stopped.text.as_str(), stopped.end),
        (before, Some(End::StopString(0)))
    );
    assert_eq!(chat.messages()[1].content, before);

    // What there is of a cancelled answer stays.
    let cancelled = chat.say("More", &limit(20), |text| {
        if text.is_empty() {
            ControlFlow::Continue(())
        } else {
            ControlFlow::Break(())
        }
    });
    let cancelled = cancelled.unwrap();
    assert_eq!(cancelled.end, None);
    assert!(cancelled.tokens > 0);
    assert_eq!(chat.messages().len(), 4);
    assert_eq!(chat.messages()[3].content, cancelled.text);
    // A message whose answer has not begun is not part of the conversation.
    let long = "long ".repeat(60);
    let cancelled = chat
        .say(&long, &limit(20), |_| ControlFlow::Break(()))
        .unwrap();
    assert_eq!((cancelled.end, cancelled.tokens), (None, 0));
    assert_eq!(chat.messages().len(), 4);
    let go_on_with = chat.say("So?", &limit(8), go_on).unwrap();
    assert_eq!(go_on_with.tokens, 8);
}

#[test]
fn a_conversation_is_saved_and_loaded() {
    let llm = chat_llm();
    let new = || Chat::new(llm.session(&greedy(600)).unwrap()).unwrap();
    let mut chat = new();
    assert!(matches!(chat.save(), Err(Error::Conversation(_))));
    chat.set_system(Some("Be.")).unwrap();
    chat.say("Hi é", &limit(8), go_on).unwrap();
    let saved = chat.save().unwrap();
    assert_eq!(chat.save().unwrap(), saved);
    let expected = chat.say("So?", &limit(8), go_on).unwrap();

    let mut other = new();
    other.say("Something else", &limit(8), go_on).unwrap();
    for cut in [10, 100, saved.len() - 1] {
        other.load(&saved[..cut]).unwrap_err();
    }
    let mut damaged = saved.clone();
    damaged[80] ^= 1;
    other.load(&damaged).unwrap_err();
    assert_eq!(other.messages()[0].content, "Something else");
    other.load(&saved).unwrap();
    assert_eq!(other.save().unwrap(), saved);
    let answer = other.say("So?", &limit(8), go_on).unwrap();
    assert_eq!(answer.text, expected.text);
    assert_eq!(answer.prompt_tokens, expected.prompt_tokens);
    // A conversation that the session does not hold is computed first.
    let mut third = new();
    third.set_messages(chat.messages()[..3].to_vec());
    let mut fourth = new();
    fourth.load(&third.save().unwrap()).unwrap();
    assert_eq!(
        fourth.say("So?", &limit(8), go_on).unwrap().text,
        expected.text
    );
}

#[test]
fn a_model_is_opened_from_bytes_without_files() {
    let (path, _folder) = chat_model();
    let file = std::fs::read(&path).unwrap();
    let packed = Image::from_bytes(&file).unwrap();
    assert!(*packed == *Image::open(&path).unwrap());
    // As an image, wherever its bytes lie.
    let shifted = [&[0], &*packed].concat();
    let copied = Image::from_bytes(&shifted[1..]).unwrap();
    let llm = Llm::new(copied).unwrap();
    let mut chat = Chat::new(llm.session(&greedy(100)).unwrap()).unwrap();
    assert_eq!(chat.say("Hi", &limit(4), go_on).unwrap().tokens, 4);
}

/// What an application holds: everything is owned, and nothing has a lifetime.
struct App {
    llm: Llm,
    chat: Chat,
    notes: LlmSession,
}

#[test]
fn an_application_owns_all_of_it_and_moves_it() {
    let llm = chat_llm();
    let app = App {
        chat: Chat::new(llm.session(&greedy(300)).unwrap()).unwrap(),
        notes: llm.session(&greedy(300)).unwrap(),
        llm,
    };
    let mut apps = vec![app];
    let thread = std::thread::spawn(move || {
        let mut app = apps.remove(0);
        app.chat.say("Hi", &limit(4), go_on).unwrap();
        app.notes.generate("Note:", &limit(4), go_on).unwrap();
        app
    });
    let mut app = thread.join().unwrap();
    assert_eq!(app.chat.messages().len(), 2);
    assert_eq!(app.chat.say("So?", &limit(4), go_on).unwrap().tokens, 4);
    assert_eq!(app.notes.tokens().len(), "Note:".len() + 4);
    assert_eq!(app.llm.model().config().vocab_size, 258);
}

#[test]
fn what_is_refused_changes_nothing_and_says_why() {
    let llm = chat_llm();
    let mut session = llm.session(&greedy(30)).unwrap();
    session.generate("Hi", &limit(4), go_on).unwrap();
    let tokens = session.tokens();
    let refused = |found: Result<Generated, Error>, expected: &str| {
        let error = found.unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    };
    let stop = |string: &str| GenerateOptions {
        stop_strings: vec![string.into()],
        ..Default::default()
    };
    let long = "x".repeat(25);
    refused(session.generate(&long, &limit(4), go_on), "has 31 tokens");
    refused(session.generate("x", &stop(""), go_on), "stop string \"\"");
    refused(
        session.generate("x", &stop(&"x".repeat(65)), go_on),
        "1 to 64 bytes",
    );
    assert_eq!(session.tokens(), tokens);
    refused(
        session.complete(&[], &limit(4), go_on),
        "no token was given",
    );
    refused(session.complete(&[1, 258], &limit(4), go_on), "258");
    // It still works.
    let full = session
        .generate("y", &GenerateOptions::default(), go_on)
        .unwrap();
    assert_eq!(full.end, Some(End::ContextFull));
    refused(session.generate("", &limit(4), go_on), "a longer context");

    let mut chat = Chat::new(llm.session(&greedy(60)).unwrap()).unwrap();
    chat.say("Hi", &limit(4), go_on).unwrap();
    refused(chat.say(&long, &limit(4), go_on), "in a context of 60");
    assert_eq!(chat.messages().len(), 2);
    chat.say("So", &limit(1), go_on).unwrap();

    let story = Llm::open(STORY).unwrap();
    let no_template = Chat::new(story.session(&greedy(60)).unwrap());
    let error = no_template.err().unwrap().to_string();
    assert!(
        error.starts_with(STORY) && error.contains("no chat template"),
        "{error}"
    );
    for path in ["no/such/file", "Cargo.toml", "src"] {
        let error = Llm::open(path).unwrap_err().to_string();
        assert!(error.starts_with(path), "{error}");
    }
    let too_large = SessionOptions {
        context: Some(u32::MAX),
        ..greedy(1)
    };
    let error = llm.session(&too_large).err().unwrap().to_string();
    assert!(error.contains("memory"), "{error}");
    let error = llm.session(&greedy(0)).err().unwrap().to_string();
    assert!(error.contains("context"), "{error}");
    for bytes in [&b"pocketlm"[..], b"GGUF", b"", b"something else"] {
        let opened = Image::from_bytes(bytes).and_then(Llm::new);
        assert!(opened.is_err(), "{bytes:?}");
    }
}

#[test]
fn a_packed_image_is_kept_for_the_next_time() {
    let (model, folder) = chat_model();
    let cache = folder.path().join("cache");
    let open = |cache: Option<&Path>| {
        let mut last = None;
        let image = Image::open_with(&model, cache, &mut |done, total| last = Some((done, total)));
        (image.unwrap(), last)
    };
    let (packed, progress) = open(Some(&cache));
    assert!(progress.is_some_and(|(done, total)| done == total && total > 0));
    assert_eq!(packed.not_kept(), None);
    let (kept, progress) = open(Some(&cache));
    assert_eq!(progress, None);
    assert!(*packed == *kept);
    // Without a folder to keep it in, it is packed each time.
    let file = folder.path().join("file");
    std::fs::write(&file, "").unwrap();
    for cache in [None, Some(&*file)] {
        let (again, progress) = open(cache);
        assert!(progress.is_some());
        assert!(*again == *packed);
        assert_eq!(again.not_kept().is_some(), cache.is_some());
    }
    Llm::new(kept).unwrap();
}

#[test]
fn the_chat_example_streams_answers_of_a_gguf_file() {
    let (model, _folder) = chat_model();
    let features = if cfg!(feature = "cli") { "cli" } else { "chat" };
    let mut command = Command::new(env!("CARGO"));
    command.args([
        "run",
        "--quiet",
        "--features",
        features,
        "--example",
        "chat",
    ]);
    if !cfg!(debug_assertions) {
        command.arg("--release");
    }
    let child = command
        .arg("--")
        .arg(model)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut child = child.unwrap();
    // The model never ends a text, so the first answer fills the context.
    child.stdin.take().unwrap().write_all(b"Hi\n").unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let answer = String::from_utf8(output.stdout).unwrap();
    let prompt = "\u{1}user\nHi\u{1}\u{1}assistant\n".len();
    assert_eq!(answer.trim_end().len(), 2048 - prompt + 1);
}

#[test]
fn messages_of_an_application_become_a_conversation() {
    let llm = chat_llm();
    let mut chat = Chat::new(llm.session(&greedy(300)).unwrap()).unwrap();
    let message = |role, content: &str| Message {
        role,
        content: content.into(),
    };
    chat.set_messages(vec![message("user", "Hi"), message("assistant", "Hello.")]);
    let answer = chat.say("So?", &limit(4), go_on).unwrap();
    let whole = "\u{1}user\nHi\u{1}\u{1}assistant\nHello.\u{1}\u{1}user\nSo?\u{1}\u{1}assistant\n";
    assert_eq!(answer.prompt_tokens, whole.len());
}
