//! Images that are run as tests: on which machine, with what input, what must and what must not appear.

use crate::build;
use crate::cargo::Paths;
use crate::emulator::{self, End};
use crate::error::{Error, Result};
use crate::machine::MachineOptions;
use crate::policy::Policy;
use crate::progress::Progress;
use std::time::Duration;

/// What no run may ever print, whatever it tests.
pub const ALWAYS_FORBIDDEN: [&str; 3] = ["kernel panic", "panicked at", "invariant broken"];
/// The cores that `trial` and `rogue` run on.
pub const CPUS: [&str; 5] = ["cortex-a53", "cortex-a72", "cortex-a76", "neoverse-n1", "max"];

/// Far above what any case takes on a busy host: it ends what hangs, and decides nothing else.
pub const HANGS: Duration = Duration::from_secs(300);

/// One image on one machine.
#[derive(Clone, Debug)]
pub struct Case {
    /// The image.
    pub image: String,
    /// The machine.
    pub options: MachineOptions,
    /// What is typed.
    pub input: String,
    /// What must appear, in any order.
    pub expected: Vec<String>,
    /// What must not appear, besides [`ALWAYS_FORBIDDEN`].
    pub forbidden: Vec<String>,
    /// The exit code.
    pub code: i32,
    /// When it is taken for hanging.
    pub limit: Duration,
    /// Which way calls take through the kernel.
    pub paths: Paths,
    /// Arguments for the last program, in the place of those in the image file.
    pub arguments: Option<Vec<String>>,
}

impl Case {
    /// `image` on [`machine`]: ends with 0.
    pub fn new(image: &str) -> Case {
        Case {
            image: image.to_string(),
            options: machine(),
            input: String::new(),
            expected: Vec::new(),
            forbidden: Vec::new(),
            code: 0,
            limit: HANGS,
            paths: Paths::Short,
            arguments: None,
        }
    }

    /// On this machine.
    pub fn on(mut self, options: MachineOptions) -> Case {
        self.options = options;
        self
    }

    /// With this kernel.
    pub fn through(mut self, paths: Paths) -> Case {
        self.paths = paths;
        self
    }

    /// This is typed.
    pub fn typing(mut self, input: &str) -> Case {
        self.input = input.to_string();
        self
    }

    /// This must appear.
    pub fn expecting(mut self, texts: &[&str]) -> Case {
        self.expected.extend(texts.iter().map(|text| text.to_string()));
        self
    }

    /// This must not.
    pub fn forbidding(mut self, texts: &[&str]) -> Case {
        self.forbidden.extend(texts.iter().map(|text| text.to_string()));
        self
    }

    /// What it is called in lists.
    pub fn name(&self) -> String {
        format!("{} on {}", self.image, self.options.summary())
    }

    /// Builds and runs it; answers the output.
    pub fn run(&self) -> Result<String> {
        let built = build::build_with(&self.policy()?, &self.options, self.paths, &Progress::Silent)?;
        let arguments = emulator::arguments(&built, &self.options, &[]);
        let captured = emulator::captured(&arguments, self.input.as_bytes(), self.limit)?;
        self.judge(captured.end, &captured.output)?;
        Ok(captured.output)
    }

    fn policy(&self) -> Result<Policy> {
        let mut policy = build::find(&self.image)?;
        if let (Some(arguments), Some(program)) = (&self.arguments, policy.image.programs.last_mut()) {
            program.get_mut().args.clone_from(arguments);
        }
        Ok(policy)
    }

    /// Whether a run that ended so, with this output, is what was wanted.
    pub fn judge(&self, end: End, output: &str) -> Result<()> {
        let failed = |what: String| Err(Error::new(format!("{}: {what}\n--- output\n{output}\n---", self.name())));
        let forbidden = self.forbidden.iter().map(String::as_str).chain(ALWAYS_FORBIDDEN);
        for text in forbidden {
            if output.contains(text) {
                return failed(format!("`{text}` appeared"));
            }
        }
        for text in &self.expected {
            if !output.contains(text) {
                return failed(format!("`{text}` did not appear"));
            }
        }
        match end {
            End::Code(code) if code == self.code => Ok(()),
            End::Code(code) => failed(format!("it ended with {code}, not {}", self.code)),
            End::TimedOut => failed(format!("it did not end within {} s", self.limit.as_secs())),
            End::Interrupted => failed("it was interrupted".to_string()),
        }
    }
}

/// Every case that `cargo image test` runs; `cargo test` runs the same.
pub fn all() -> Vec<Case> {
    let mut cases = vec![demo(), tiny(), attack("peers", machine())];
    cases.extend(plain_machines().map(|options| attack("channels", options)));
    for image in ["trial", "rogue"] {
        cases.extend(machines().into_iter().chain(several_cores()).map(|options| attack(image, options)));
    }
    cases.extend(MANY_CORES.map(many_cores));
    cases
}

/// The prompt, with input from a pipe.
pub fn demo() -> Case {
    Case::new("demo").typing("ps\nmem\noff\n").expecting(&["init", "pl011", "shell", "free"])
}

/// Cores of the large machines that the prompt comes up on.
pub const MANY_CORES: [u32; 2] = [64, 128];

/// The prompt on a machine with so many cores, each of which shows its slices.
pub fn many_cores(smp: u32) -> Case {
    let options = MachineOptions { smp, memory_kib: 1024 * 1024, ..MachineOptions::default() };
    let case = Case::new("demo").on(options).typing("slices\noff\n");
    let last = format!("core {}:", smp - 1);
    case.expecting(&["core 0:", "core 1:", &last]).forbidding(&["does not start"])
}

/// The smallest machine.
pub fn tiny() -> Case {
    let options = MachineOptions { memory_kib: 1024, ..machine() };
    Case::new("tiny").on(options).expecting(&["Hello"])
}

/// `trial`, `rogue`, `peers` or `channels` on a machine.
pub fn attack(image: &str, options: MachineOptions) -> Case {
    let case = Case::new(image).on(options);
    match image {
        "trial" | "peers" | "channels" => case.expecting(&["promises hold"]).forbidding(&["FAILED"]),
        "rogue" => case.expecting(&["rogue: all attacks failed"]).forbidding(&["harm:"]),
        _ => case,
    }
}

/// So many calls between servers and clients that are killed, revoked and restarted all the time, on a machine.
pub fn gates(seed: u64, calls: u64, options: MachineOptions) -> Case {
    let mut case = Case::new("gates").on(options);
    case.arguments = Some(vec![seed.to_string(), calls.to_string()]);
    case.expecting(&[&format!("gates: {calls} answered"), "nothing wrong, nothing lost, nothing left"])
}

/// The machine of a test: its time is counted in instructions, so that what it sees does not depend on how busy the host is.
pub fn machine() -> MachineOptions {
    MachineOptions { icount: Some(0), ..MachineOptions::default() }
}

/// Two interrupt controllers, two to eight cores. Their time is the host's: counted instructions would run one core after the other.
pub fn several_cores() -> Vec<MachineOptions> {
    let machines = |gic| [2, 4, 8].map(|smp| MachineOptions { smp, gic, ..MachineOptions::default() });
    [2, 3].into_iter().flat_map(machines).collect()
}

/// For images that depend little on the machine: the usual one, and one without hardware accessed and dirty bits and without LSE.
pub fn plain_machines() -> [MachineOptions; 2] {
    [machine(), MachineOptions { cpu: "cortex-a53".to_string(), gic: 2, el: 2, ..machine() }]
}

/// Two interrupt controllers, five cores, two exception levels: 20 machines.
pub fn machines() -> Vec<MachineOptions> {
    let mut machines = Vec::new();
    for gic in [2, 3] {
        for cpu in CPUS {
            for el in [1, 2] {
                machines.push(MachineOptions { cpu: cpu.to_string(), gic, el, ..machine() });
            }
        }
    }
    machines
}
