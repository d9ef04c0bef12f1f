//! The commands of `chat`: lines that begin with `/`.

use std::path::PathBuf;

/// A line that begins with `/`.
#[derive(Debug, PartialEq)]
pub enum Command {
    Help,
    Clear,
    /// The new system message; `None` for none.
    System(Option<String>),
    Save(PathBuf),
    Load(PathBuf),
    Quit,
}

pub const HELP: &str = "\
/system TEXT   set the system message; /system alone removes it
/clear         begin a new conversation; the system message stays
/save FILE     write the conversation to a file, with its keys and values
/load FILE     continue a conversation from a file
/quit, /bye    end the conversation, as Ctrl-D does
/help          show this list
\"\"\" begins and ends a message of several lines. Ctrl-C stops an answer, a second one the program.
To send a message that begins with /, type // or put a space before it.";

/// Parses a command; `None` if the line is a message. The error is a sentence for the user.
pub fn command(line: &str) -> Option<Result<Command, String>> {
    // Several lines were pasted together.
    if !line.starts_with('/') || line.starts_with("//") || line.contains('\n') {
        return None;
    }
    let (name, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
    let rest = rest.trim();
    let file = |build: fn(PathBuf) -> Command| match rest {
        "" => Err(format!("{name} needs a file: {name} FILE")),
        "-" => Err(format!(
            "{name} needs a file; standard input and output are in use"
        )),
        rest => Ok(build(rest.into())),
    };
    let alone = |command| match rest {
        "" => Ok(command),
        rest => Err(format!(
            "{name} takes no argument, and `{rest}` comes after it"
        )),
    };
    Some(match name {
        "/help" | "/?" => alone(Command::Help),
        "/clear" => alone(Command::Clear),
        "/quit" | "/bye" | "/exit" => alone(Command::Quit),
        "/save" => file(Command::Save),
        "/load" => file(Command::Load),
        "/system" => Ok(Command::System((!rest.is_empty()).then(|| rest.to_owned()))),
        _ => Err(format!(
            "{name} is not a command, and the line was not sent to the model; /help lists the \
             commands, and // begins a message that starts with /"
        )),
    })
}

/// The message of a line that is not a command. Of two slashes at its start one is removed. A
/// message of several lines is not changed.
pub fn message(line: &str) -> &str {
    if line.starts_with("//") && !line.contains('\n') {
        &line[1..]
    } else {
        line
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slash_begins_a_command_and_two_or_a_space_do_not() {
        assert_eq!(command("/help "), Some(Ok(Command::Help)));
        assert_eq!(command("/bye"), Some(Ok(Command::Quit)));
        assert_eq!(
            command("/save  a b.kv "),
            Some(Ok(Command::Save("a b.kv".into())))
        );
        assert_eq!(
            command("/system  Be brief. "),
            Some(Ok(Command::System(Some("Be brief.".into()))))
        );
        assert_eq!(command("/system"), Some(Ok(Command::System(None))));
        for line in [
            "Hi", "", " /clear", "//clear", "a /clear", "/a\nb", "\\clear",
        ] {
            assert_eq!(command(line), None, "{line}");
        }
        assert_eq!(message("//etc is a folder"), "/etc is a folder");
        assert_eq!(message(" /etc"), " /etc");
        assert_eq!(message("///"), "//");
        assert_eq!(message("// a comment\nx()"), "// a comment\nx()");
    }

    #[test]
    fn a_wrong_command_says_what_is_wrong() {
        for (line, reason) in [
            ("/clera", "/clera is not a command"),
            ("/", "/ is not a command"),
            ("/etc/passwd is what?", "/etc/passwd is not a command"),
            ("/Clear", "/Clear is not a command"),
            ("/save", "/save needs a file"),
            ("/load -", "/load needs a file"),
            ("/clear all", "`all` comes after it"),
        ] {
            let refusal = command(line).unwrap().unwrap_err();
            assert!(refusal.contains(reason), "{refusal}");
        }
    }
}
