//! `onecommit doctor`.

use serde_json::{Value, json};

use super::interrupt::until_interrupted;
use super::live_line::Steps;
use super::output::Output;
use crate::config::Config;
use crate::error::{ErrorKind, Result};
use crate::service::{self, Finding, Findings, Severity};

/// Something is wrong that a person has to correct.
const PROBLEMS: i32 = 1;

pub(super) fn run(config: &Config, output: Output) -> Result<i32> {
    let steps = Steps::new("asking the servers, and waiting for the owners' signs of life");
    let findings = match until_interrupted(steps.during(output, service::doctor(config)))? {
        Ok(findings) => findings,
        Err(interruption) => return Ok(interruption.cuts_off()),
    };
    let (problems, warnings) = (findings.count(Severity::Problem), findings.count(Severity::Warning));
    if output.json {
        let all: Vec<Value> = findings.all.iter().map(as_json).collect();
        output.object(&json!({"problems": problems, "warnings": warnings, "findings": all}))?;
    } else {
        for finding in &findings.all {
            print(finding, output)?;
        }
        let ok = findings.count(Severity::Ok);
        output.line(&format!("{problems} problems, {warnings} warnings, {ok} ok"))?;
    }
    Ok(code(&findings))
}

/// Of a server that can't be reached it is not known whether all is well.
fn code(findings: &Findings) -> i32 {
    if findings.unreachable {
        return super::output::kind_code(ErrorKind::Unreachable);
    }
    if findings.count(Severity::Problem) > 0 { PROBLEMS } else { 0 }
}

fn as_json(finding: &Finding) -> Value {
    json!({
        "severity": finding.severity.as_str(),
        "where": finding.place,
        "what": finding.what,
        "what_to_do": finding.todo,
    })
}

fn print(finding: &Finding, output: Output) -> Result<()> {
    output.line(&format!("{:<8} {}: {}", finding.severity.as_str(), finding.place, finding.what))?;
    finding.todo.as_ref().map_or(Ok(()), |todo| output.line(&format!("         what to do: {todo}")))
}
