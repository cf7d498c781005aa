//! A configuration: any bytes are either one or told to be wrong, at a place that there is.

use std::path::Path;

use dispatcher_user::config::{Config, ConfigError};

/// Reads the bytes as a configuration file.
pub fn parse(bytes: &[u8]) {
    match Config::parse(Path::new("f.toml"), bytes) {
        Ok(config) => {
            assert!(!config.services.is_empty());
            assert!(config.backends_len() > 0);
        }
        Err(ConfigError::Wrong { problems, .. }) => {
            assert!(!problems.is_empty());
            // What is not UTF-8 is told by where that begins; its lines end as text's do.
            let text = String::from_utf8_lossy(bytes);
            let lines: Vec<_> = text.split('\n').collect();
            for problem in problems {
                let line = problem.line.checked_sub(1).and_then(|line| lines.get(line));
                let line = line.unwrap_or_else(|| panic!("no such line: {problem:?}"));
                let columns = 1..=line.chars().count() + 1;
                assert!(columns.contains(&problem.column), "{problem:?} in {line:?}");
                assert!(!problem.message.is_empty());
            }
        }
        Err(error @ ConfigError::Unreadable { .. }) => panic!("nothing was read: {error}"),
    }
}
