//! The commands, as each tells of itself.

use clap::CommandFactory;
use dispatcher_user::cli::Cli;

/// A section for each.
pub fn reference() -> String {
    // Neither this terminal nor this environment is the reader's.
    let mut root = Cli::command().term_width(100);
    root.build();
    let mut text = String::new();
    for command in root.get_subcommands_mut() {
        let name = command.get_name().to_owned();
        let mut command = command
            .clone()
            .mut_args(|argument| argument.hide_env_values(true));
        let help = command.render_help().to_string();
        // Trailing spaces would be for nothing.
        let lines: Vec<_> = help.lines().map(str::trim_end).collect();
        let help = lines.join("\n");
        text.push_str(&format!(
            "## `dispatcher {name}`\n\n```text\n{}\n```\n\n",
            help.trim_end()
        ));
    }
    text
}
