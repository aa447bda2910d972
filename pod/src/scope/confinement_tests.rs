//! What a pod is told about its confinement, and what becomes of one that cannot be had.

use super::{
    Confined, Confinement, Permission, ScopeRule, kernel_confinement, kernel_landlock_abi, kernel_landlock_version,
};
use crate::runtime_dir::Roots;
use crate::{PodController, PodOptions, SpawnError, SpawnPod, StartError, WorkerSpec};

fn options(dir: &tempfile::TempDir, confinement: Confinement) -> PodOptions {
    let roots = Roots::at(&dir.path().join("root")).unwrap();
    let options = PodOptions::new("a".parse().unwrap(), WorkerSpec::ledger()).roots(roots).confinement(confinement);
    options.program("/bin/false")
}

fn rules(dir: &tempfile::TempDir) -> Vec<ScopeRule> {
    vec![ScopeRule::below(dir.path().to_str().unwrap(), Permission::Write)]
}

#[tokio::test]
async fn pod_whose_programs_cannot_be_confined_as_required_is_not_started_and_nothing_of_it_is_made() {
    for kernel in [Confinement::Off, Confinement::BestEffort] {
        let dir = tempfile::tempdir().unwrap();
        let without = options(&dir, Confinement::Required).on_kernel(kernel);
        let refused = PodController::spawn(without.clone().scope(rules(&dir))).await.unwrap_err();
        assert!(matches!(refused, StartError::Confinement { .. }), "{refused}");
        for word in ["`a`", "Landlock", "Linux 6.2", "best-effort"] {
            assert!(refused.to_string().contains(word), "`{word}` is not in: {refused}");
        }
        assert!(!dir.path().join("root/state/a").exists() && !dir.path().join("root/state/registry.db").exists());

        // Without a scope there is nothing to confine to; a child with one is refused in the same words.
        let boss = PodController::spawn(without).await.unwrap();
        let child = SpawnPod::new("b".parse().unwrap(), WorkerSpec::ledger());
        let refused = boss.spawn_pod(child.clone().scope(rules(&dir))).await.unwrap_err();
        assert!(matches!(refused, SpawnError::Confinement { .. }), "{refused}");
        assert!(refused.to_string().contains("best-effort") && !dir.path().join("root/state/b").exists(), "{refused}");
        assert!(boss.children().is_empty());
        let without_scope = boss.spawn_pod(child).await.unwrap_err();
        assert!(matches!(without_scope, SpawnError::DiedEarly { .. }), "{without_scope}");
        boss.shutdown().await;
    }
}

#[tokio::test]
async fn status_and_report_say_what_was_asked_for_and_what_is_in_force() {
    let kernel = kernel_confinement();
    for (asked, scoped, in_force) in [
        (Confinement::BestEffort, true, kernel),
        (Confinement::Off, true, Confinement::Off),
        (Confinement::BestEffort, false, Confinement::Off),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let options = options(&dir, asked).scope(if scoped { rules(&dir) } else { Vec::new() });
        let pod = PodController::spawn(options).await.unwrap();
        let (landlock_abi, landlock_kernel) = (kernel_landlock_abi(), kernel_landlock_version());
        let expected = Confined { asked, in_force, scoped, landlock_abi, landlock_kernel };
        assert_eq!(pod.status().await.unwrap().confined, expected);
        let report = crate::discovery::inspect(pod.roots(), &pod.id().name).unwrap();
        assert_eq!((report.confined, report.scope.len()), (Some(expected), usize::from(scoped)));
        pod.shutdown().await;
    }
    assert_eq!(kernel >= Confinement::Required, kernel_landlock_abi() >= 3);
    // What is made use of is a part of what there is, and all of it up to 6.
    assert!(kernel_landlock_abi() == kernel_landlock_version() || kernel_landlock_version() > 3);
    assert!(kernel_landlock_abi() <= kernel_landlock_version());
    // To ask has restricted nobody but who asked.
    assert!(std::fs::read_dir("/").is_ok() && std::fs::read("/proc/self/status").is_ok());
}
