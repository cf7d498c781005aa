//! What an agent answers: a report, or why it is none, in words that are good to read.

use std::net::SocketAddr;
use std::time::Duration;

use dispatcher_user::agent::ask_over;
use dispatcher_user::config::AgentKind;
use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};
use tokio::runtime::Builder;
use tokio::time::timeout;

/// Takes the bytes for an answer over TCP and for one over HTTP, after which the agent closes.
pub fn ask(bytes: &[u8]) {
    let runtime = Builder::new_current_thread().enable_time().build();
    let runtime = runtime.expect("a runtime starts");
    let kinds = [
        AgentKind::Tcp {
            send: "x\n".to_owned(),
        },
        AgentKind::Http {
            path: "/load".to_owned(),
        },
    ];
    for kind in kinds {
        runtime.block_on(async {
            let (ours, mut theirs) = duplex(1 << 16);
            let answer = async {
                let mut asked = [0; 2];
                theirs.read_exact(&mut asked).await.expect("it is asked");
                // It may have heard enough before the end.
                let _ = theirs.write_all(bytes).await;
                let _ = theirs.shutdown().await;
                let _ = theirs.read_to_end(&mut Vec::new()).await;
            };
            let host = SocketAddr::from(([192, 0, 2, 1], 80));
            let ask = ask_over(ours, host, &kind);
            let both = async { tokio::join!(ask, answer).0 };
            let report = timeout(Duration::from_secs(20), both).await;
            match report.expect("an agent that has closed is waited for no longer") {
                Ok(report) => {
                    let said = [
                        report.ceiling.is_some(),
                        report.share_percent.is_some(),
                        report.load_percent.is_some(),
                        report.state.is_some(),
                    ];
                    assert!(said.contains(&true), "{report:?}");
                }
                Err(fault) => {
                    let told = fault.to_string();
                    assert!(!told.is_empty() && told.chars().count() < 400, "{told}");
                    assert!(!told.contains(char::is_control), "{told:?}");
                }
            }
        });
    }
}
