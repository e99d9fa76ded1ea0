//! What a line says: a command and its operands.

/// Every command, its operands, and what it does.
pub const COMMANDS: &[(&str, &str, &str)] = &[
    ("help", "", "say what there is"),
    ("ps", "", "list the programs"),
    ("mem", "", "say where the memory went"),
    ("bindings", "[NAME]", "list what programs were given"),
    ("slices", "", "list who owns the cores' slices"),
    ("faults", "", "list the last failures"),
    ("start", "NAME", "start a program"),
    ("kill", "NAME", "end a program; its restart rule then applies"),
    ("echo", "TEXT", "say TEXT"),
    ("reboot", "", "start the machine anew"),
    ("off", "", "switch the machine off"),
];

/// A line, understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command<'a> {
    /// An empty line.
    Nothing,
    /// `help`
    Help,
    /// `ps`
    Programs,
    /// `mem`
    Memory,
    /// `bindings`, of one program or all.
    Bindings(Option<&'a str>),
    /// `slices`
    Slices,
    /// `faults`
    Faults,
    /// `start NAME`
    Start(&'a str),
    /// `kill NAME`
    Kill(&'a str),
    /// `echo TEXT`
    Echo(&'a str),
    /// `reboot`
    Reboot,
    /// `off`
    Off,
    /// No command.
    Unknown(&'a str),
    /// A command with the wrong operands.
    Misused(&'a str),
}

impl<'a> Command<'a> {
    /// What `line` says.
    pub fn parse(line: &'a str) -> Command<'a> {
        let line = line.trim();
        let (word, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
        let rest = rest.trim_start();
        let mut names = rest.split_whitespace();
        let (name, more) = (names.next(), names.next());
        match (word, name, more) {
            ("", ..) => Command::Nothing,
            ("echo", ..) => Command::Echo(rest),
            ("bindings", name, None) => Command::Bindings(name),
            ("start", Some(name), None) => Command::Start(name),
            ("kill", Some(name), None) => Command::Kill(name),
            ("help", None, _) => Command::Help,
            ("ps", None, _) => Command::Programs,
            ("mem", None, _) => Command::Memory,
            ("slices", None, _) => Command::Slices,
            ("faults", None, _) => Command::Faults,
            ("reboot", None, _) => Command::Reboot,
            ("off", None, _) => Command::Off,
            _ if COMMANDS.iter().any(|(known, ..)| *known == word) => Command::Misused(word),
            _ => Command::Unknown(word),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_understood() {
        assert_eq!(Command::parse("  ps "), Command::Programs);
        assert_eq!(Command::parse("kill pl011"), Command::Kill("pl011"));
        assert_eq!(Command::parse("echo  a  b "), Command::Echo("a  b"));
        assert_eq!(Command::parse("bindings"), Command::Bindings(None));
        assert_eq!(Command::parse("bindings\tshell"), Command::Bindings(Some("shell")));
        assert_eq!(Command::parse(" \t"), Command::Nothing);
    }

    #[test]
    fn what_is_not_understood_is_named() {
        assert_eq!(Command::parse("frobnicate now"), Command::Unknown("frobnicate"));
        assert_eq!(Command::parse("kill"), Command::Misused("kill"));
        assert_eq!(Command::parse("kill a b"), Command::Misused("kill"));
        assert_eq!(Command::parse("off now"), Command::Misused("off"));
    }

    #[test]
    fn every_listed_command_is_known() {
        for (word, operands, _) in COMMANDS {
            let line = std::format!("{word} {operands}");
            assert!(!matches!(Command::parse(&line), Command::Unknown(_) | Command::Misused(_)), "{line}");
        }
    }
}
