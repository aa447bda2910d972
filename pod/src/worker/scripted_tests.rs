//! What a script may say, and which steps a turn takes.

use super::*;

fn script(text: &str) -> Result<Script, String> {
    let spec = WorkerSpec::scripted(text, "the script").map_err(|error| error.to_string())?;
    Script::from_spec(&spec).map_err(|error| error.to_string())
}

#[track_caller]
fn refused(text: &str, words: &[&str]) {
    let error = script(text).unwrap_err();
    for word in words {
        assert!(error.contains(word), "`{word}` is not in: {error}");
    }
}

#[test]
fn script_with_a_wrong_key_is_refused_with_a_suggestion() {
    refused("runz = []", &["`runz`", "did you mean `runs`?"]);
    refused("on_report = []", &["did you mean `on_reports`?"]);
    refused("runs = [[{ sya = 'x' }]]", &["`sya`", "did you mean `say`?"]);
    refused("runs = [[{ run = { chld = 'a', input = 'x' } }]]", &["did you mean `child`?"]);
    refused("runs = [[{ spawn = { name = 'A b', worker = { kind = 'ledger' } } }]]", &["A b"]);
    refused("runs = [[{ sleep_ms = 'long' }]]", &["long"]);
    refused("runs = [[", &["the script"]);
    refused("summry = 'x'", &["did you mean `summary`?"]);
    refused("on_compat = []", &["did you mean `on_compact`?"]);
    refused("summary = ' '", &["`summary`", "is empty"]);
    refused("runs = [[{ dleta = 'x' }]]", &["did you mean `delta`?"]);
    refused("runs = [[{ tool = { name = 'x', resutl = 'y' } }]]", &["`resutl`", "did you mean `result`?"]);
    refused("runs = [[{ tool = { result = 'y' } }]]", &["`name`"]);
    refused("runs = [[{ usage = { input_token = 1 } }]]", &["did you mean `input_tokens`?"]);
    refused("runs = [[{ retry = { reason = 'x', after = 1 } }]]", &["did you mean `after_ms`?"]);
    let spawn = |scope: &str| {
        format!("runs = [[{{ spawn = {{ name = 'a', worker = {{ kind = 'ledger' }}, scope = [{scope}] }} }}]]")
    };
    refused(&spawn("{ target = '/w', permision = 'read' }"), &["`permision`", "did you mean `permission`?"]);
    refused(&spawn("{ target = '/w', permission = 'wirte' }"), &["wirte"]);
    refused(&spawn("{ target = '/w', permission = 'read', child = 'b' }"), &["`a`", "leave `child` out"]);
    script(&spawn("{ target = '/w', permission = 'write' }, { target = '/w/x', permission = 'deny' }")).unwrap();
    let spawn =
        |rest: &str| format!("runs = [[{{ spawn = {{ name = 'a', worker = {{ kind = 'ledger' }}, {rest} }} }}]]");
    script(&spawn("lifetime = 'detached', restart = { when = 'permanent' }")).unwrap();
    refused(&spawn("lifetiem = 'tied'"), &["`lifetiem`", "did you mean `lifetime`?"]);
    refused(&spawn("lifetime = 'tide'"), &["`tide`", "did you mean `tied`?"]);
    refused(&spawn("restart = { when = 'permament' }"), &["did you mean `permanent`?"]);
    refused(&spawn("restart = { when = 'permanent', max = 0 }"), &["spawn of `a`", "0 restarts"]);
    refused("on_compact = [{ compcat = 'x' }]", &["did you mean `compact`?"]);
}

#[test]
fn script_takes_one_list_of_steps_a_run_and_repeats_the_last() {
    let mut script =
        script("runs = [[{ say = 'a' }], [{ say = 'b' }, 'pause']]\non_reports = ['peek_reports']").unwrap();
    let mut turn = 0;
    let mut steps = |cause| {
        turn += 1;
        format!("{:?}", script.steps(TurnId(turn), cause))
    };
    assert_eq!(steps(TurnCause::Run), r#"[Say("a")]"#);
    assert_eq!(steps(TurnCause::Reports), "[PeekReports]");
    assert_eq!(steps(TurnCause::Resume), r#"[Say("b"), Pause]"#);
    assert_eq!(steps(TurnCause::Run), r#"[Say("b"), Pause]"#);
    // Back to before the resumed turn, which was the second one that took steps.
    script.rewound(RewoundTo { turn: TurnId(3), entry: 0 });
    assert_eq!(format!("{:?}", script.steps(TurnId(5), TurnCause::Run)), r#"[Say("b"), Pause]"#);
    script.rewound(RewoundTo { turn: TurnId(1), entry: 0 });
    assert_eq!(format!("{:?}", script.steps(TurnId(6), TurnCause::Run)), r#"[Say("a")]"#);
}

#[test]
fn script_without_steps_does_nothing_and_notes_its_reports() {
    let mut script = script("").unwrap();
    assert!(script.reads_reports());
    assert!(script.steps(TurnId(1), TurnCause::Run).is_empty());
    assert_eq!(format!("{:?}", script.steps(TurnId(2), TurnCause::Reports)), "[ReadReports(0)]");
}
