//! `pod frames`: what is said to a pod is shown while it is said, recorded, and shown again from the recording.

use std::os::unix::fs::PermissionsExt;

use pod::Method;
use pod::protocol::Status;
use pod::runtime_dir::Roots;
use rpc::{Address, Client};
use rustix::process::Signal;

use crate::world::World;

#[tokio::test]
async fn what_is_said_to_a_pod_is_shown_and_can_be_shown_again() {
    let world = World::new();
    let mut run = world.start(&["run", "--keep", "--child", "a=true"]);
    run.says("kept").await;
    let name = "run".parse().unwrap();
    let socket = Roots::resolve(Some(&world.root())).unwrap().pod(&name).socket();
    let (tap, file) = (world.path("tap/s.sock"), world.path("talk.rec"));
    let [to, listen, out] = [&socket, &tap, &file].map(|path| path.to_str().unwrap());
    let mut frames = world.start(&["frames", "--listen", listen, "--to", to, "--out", out]);
    frames.says("passing on from").await;

    let status = Client::<Method>::new(&Address::unix(&tap)).call(Status).await.unwrap();
    assert_eq!(status.pod.name, name, "the answer of the pod itself");
    frames.says("->  Hello  service `pod` version 1").await;
    frames.says("<-  Ack  id 1, of `status` version 1").await;
    frames.says("--  closed").await;
    frames.signal(Signal::INT);
    let live = frames.ended().await;
    assert_eq!(live.code, 0, "{live:?}");

    assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600, "it holds all that was said");
    let again = world.pod(&["frames", out]).await;
    let said =
        |text: &str| text.lines().filter(|line| !line.starts_with("passing")).map(str::to_owned).collect::<Vec<_>>();
    assert_eq!((again.code, said(&again.stdout)), (0, said(&live.stdout)), "{}", again.stderr);
    let json = world.pod(&["frames", out, "--json"]).await.records();
    let request = json.iter().find(|record| record["kind"] == "Request").unwrap();
    assert_eq!(
        (&request["direction"], &request["parts"]["method"]),
        (&"to server".into(), &"`status` version 1".into())
    );

    world.pod(&["frames", "--listen", listen, "--to", to, "--out", out]).await.refused(2, &["talk.rec", "exists"]);
    assert_eq!(world.pod(&["stop", "run"]).await.code, 0);
    run.ended().await;
}

#[tokio::test]
async fn what_is_no_recording_is_refused_and_one_that_is_cut_is_shown_as_far_as_it_goes() {
    let world = World::new();
    let none = world.file("none", "not a recording");
    world.pod(&["frames", &none]).await.refused(2, &["none", "rpcrec1"]);
    world.pod(&["frames", "/does/not/exist"]).await.refused(2, &["/does/not/exist"]);
    world.pod(&["frames"]).await.refused(2, &["--listen"]);
    let mut opened = b"rpcrec1\n".to_vec();
    opened.extend([0; 8].into_iter().chain([1, 0, 0, 0]).chain([2]).chain([0; 4]).chain([7, 7]));
    let cut = world.path("cut");
    std::fs::write(&cut, opened).unwrap();
    let shown = world.pod(&["frames", cut.to_str().unwrap()]).await;
    assert!(shown.code == 0 && shown.stdout.contains("opened") && shown.stdout.contains("ends within"), "{shown:?}");
}
