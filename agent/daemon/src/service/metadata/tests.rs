//! The metadata service of a cloud, made up: answers as Azure documents them, and whatever else could come.

use std::{
    io::{Read, Write},
    net::TcpListener,
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use super::*;

/// As long as no test waits for.
const LONG: Duration = Duration::from_secs(30);

/// Answers one request with what `answer` writes, and tells what was asked.
fn service(
    answer: impl FnOnce(&mut std::net::TcpStream) + Send + 'static,
) -> (String, mpsc::Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let (asked, receiver) = mpsc::channel();
    thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.set_read_timeout(Some(LONG)).unwrap();
        let (mut head, mut byte) = (Vec::new(), [0]);
        while !head.ends_with(b"\r\n\r\n") && stream.read_exact(&mut byte).is_ok() {
            head.extend(byte);
        }
        asked.send(String::from_utf8_lossy(&head).into_owned()).ok();
        answer(&mut stream);
    });
    (address, receiver)
}

fn text(status: &str, body: &str) -> String {
    format!(
        "HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
}

fn answered(said: String) -> Option<CloudInventory> {
    let (address, _asked) = service(move |stream| drop(stream.write_all(said.as_bytes())));
    ask(CloudKind::Azure, &address, LONG)
}

const INSTANCE: &str = r#"{
  "compute": {
    "azEnvironment": "AzurePublicCloud", "customData": "c2VjcmV0", "isHostCompatibilityLayerVm": "true",
    "location": "westeurope", "name": "web", "offer": "", "osType": "Linux",
    "publicKeys": [{ "keyData": "ssh-rsa AAAA", "path": "/home/user/.ssh/authorized_keys" }],
    "resourceGroupName": "shop", "resourceId": "/subscriptions/8d10/resourceGroups/shop/x",
    "securityProfile": { "secureBootEnabled": "false", "virtualTpmEnabled": "false" },
    "storageProfile": {
      "dataDisks": [{ "bytesPerSecondThrottle": "979202048", "caching": "None", "createOption": "Empty",
        "diskSizeGB": "32", "isSharedDisk": "false", "lun": "3",
        "managedDisk": { "id": "/subscriptions/8d10/x", "storageAccountType": "Standard_LRS" }, "name": "data" }],
      "osDisk": { "caching": "ReadWrite", "createOption": "FromImage", "diskSizeGB": "30",
        "managedDisk": { "id": "/subscriptions/8d10/y", "storageAccountType": "Premium_LRS" }, "name": "os" }
    },
    "subscriptionId": "8d10da13-8125-4ba9-a717-bf7490507b3d", "tags": "owner:shop",
    "tagsList": [{ "name": "owner", "value": "shop" }], "userData": "c2VjcmV0",
    "vmId": "02aab8a4-74ef-476e-8182-f6d2ba4166a6", "vmSize": "Standard_D2s_v5", "zone": "2"
  },
  "network": { "interface": [{
    "ipv4": { "ipAddress": [{ "privateIpAddress": "10.1.0.7", "publicIpAddress": "" }],
      "subnet": [{ "address": "10.1.0.0", "prefix": "24" }] },
    "ipv6": { "ipAddress": [] }, "macAddress": "000D3A000001" }] }
}"#;

#[test]
fn what_azure_says_is_understood_and_no_more_of_it_kept() {
    let (address, asked) = service(|stream| stream.write_all(text("200 OK", INSTANCE).as_bytes()).unwrap());
    let told = ask(CloudKind::Azure, &address, LONG).unwrap();
    let asked = asked.recv_timeout(LONG).unwrap();
    assert!(asked.starts_with("GET /metadata/instance?api-version=2021-02-01 HTTP/1.1\r\n"), "{asked}");
    assert!(asked.to_lowercase().contains("\r\nmetadata: true\r\n"), "{asked}");
    let shown = |text: &str| text.to_owned();
    let expected = CloudInventory {
        kind: CloudKind::Azure,
        id: shown("02aab8a4-74ef-476e-8182-f6d2ba4166a6"),
        name: shown("web"),
        subscription: shown("8d10da13-8125-4ba9-a717-bf7490507b3d"),
        resource_group: shown("shop"),
        location: shown("westeurope"),
        size: shown("Standard_D2s_v5"),
        zone: Some(shown("2")),
        tags: BTreeMap::from([(shown("owner"), shown("shop"))]),
        interfaces: vec![CloudInterface {
            mac: shown("00:0d:3a:00:00:01"),
            addresses: vec!["10.1.0.7".parse().unwrap()],
            subnet: Some(shown("10.1.0.0/24")),
        }],
        disks: vec![
            CloudDisk { lun: None, name: shown("os"), disk_type: Some(shown("Premium_LRS")) },
            CloudDisk { lun: Some(3), name: shown("data"), disk_type: Some(shown("Standard_LRS")) },
        ],
    };
    assert_eq!(told, expected);
    let kept = serde_json::to_string(&told).unwrap();
    assert!(!kept.contains("c2VjcmV0") && !kept.contains("ssh-rsa"), "{kept}");
}

#[test]
fn an_answer_that_is_none_counts_as_nothing() {
    let tag = format!(r#"{{"compute":{{"tagsList":[{{"name":"a","value":"{}"}}]}}}}"#, "v".repeat(5000));
    let answers = [
        String::new(),
        "rubbish\r\n\r\n".to_owned(),
        text("200 OK", "rubbish"),
        text("200 OK", "[1, 2]"),
        text("200 OK", r#"{"compute":7}"#),
        text("200 OK", &tag),
        text("404 Not Found", INSTANCE),
        "HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1:9/\r\ncontent-length: 0\r\n\r\n".to_owned(),
        "HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{".to_owned(),
    ];
    for answer in answers {
        assert_eq!(answered(answer.clone()), None, "{answer}");
    }
    // Nobody is there at all.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    assert_eq!(ask(CloudKind::Azure, &address, LONG), None);
}

#[test]
fn an_answer_without_end_is_given_up() {
    let (told, result) = mpsc::channel();
    let (address, _asked) = service(move |stream| {
        let mut sent = stream.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").map(|()| 0);
        while let Ok(bytes @ 0..=0x0fff_ffff) = sent {
            let chunk = format!("1000\r\n{}\r\n", " ".repeat(0x1000));
            sent = stream.write_all(chunk.as_bytes()).map(|()| bytes + 0x1000);
        }
        told.send(sent.is_err()).ok();
    });
    assert_eq!(ask(CloudKind::Azure, &address, LONG), None);
    assert!(result.recv_timeout(LONG).unwrap(), "it was read to its end");
}

#[test]
fn an_answer_that_drips_is_given_up_in_time() {
    let (stop, stopped) = mpsc::channel::<()>();
    let (address, _asked) = service(move |stream| {
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\n").unwrap();
        // A byte now and then, until the test has ended.
        while stopped.recv_timeout(Duration::from_millis(20)) == Err(mpsc::RecvTimeoutError::Timeout) {
            if stream.write_all(b" ").is_err() {
                return;
            }
        }
    });
    let began = Instant::now();
    assert_eq!(ask(CloudKind::Azure, &address, Duration::from_millis(300)), None);
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    drop(stop);
}

#[test]
fn only_a_machine_in_a_cloud_asks() {
    let root = tempfile::tempdir().unwrap();
    assert_eq!(recognised(root.path()), None);
    let dmi = root.path().join("sys/class/dmi/id");
    fs::create_dir_all(&dmi).unwrap();
    for (tag, cloud) in [("", None), ("Default string\n", None), (AZURE_TAG, Some(CloudKind::Azure))] {
        fs::write(dmi.join("chassis_asset_tag"), tag).unwrap();
        // Hyper-V on somebody's own host names the same vendor.
        fs::write(dmi.join("sys_vendor"), "Microsoft Corporation\n").unwrap();
        assert_eq!(recognised(root.path()), cloud, "{tag}");
    }
    assert_eq!(ask(CloudKind::Other, "http://127.0.0.1:9", LONG), None);
}
