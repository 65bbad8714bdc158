//! What an agent can do with its grants where cache storage is an object store: create each object once, and nothing else. It is
//! the store that refuses, since the service does not see these requests.
//!
//! Deliberately not here: the whole way of a real agent (`service_stores`).

use mobility_format::{Epoch, control::Grant};
use mobility_recovery::{Objects, Remote};
use mobility_tests::{
    object_stores::{ObjectStoreServer, azurite, s3},
    requirement::Requirement,
};
use reqwest::{
    Certificate, Method,
    blocking::{Client, RequestBuilder},
};

use crate::{
    agent::Agent,
    rig::{PATIENCE, Rig},
};

/// A service whose cache storage is in an object store, and two machines of it.
struct World {
    rig: Rig,
    server: ObjectStoreServer,
    client: Client,
    agents: [Agent; 2],
}

impl World {
    fn new(server: ObjectStoreServer) -> World {
        let rig = Rig::with(|dir| server.table("cache", "some/where", dir));
        let mut client = Client::builder().no_proxy().timeout(PATIENCE);
        if let Some(pem) = server.authorities() {
            client = client.tls_certs_only([Certificate::from_pem(pem).unwrap()]);
        }
        let agents = [1, 2].map(|seed| {
            let mut agent = Agent::enrol(&rig, seed);
            agent.try_session().unwrap();
            agent.new_generation();
            agent
        });
        World { rig, server, client: client.build().unwrap(), agents }
    }

    fn request(&self, method: Method, url: &str, grant: &Grant) -> RequestBuilder {
        let request = self.client.request(method, url);
        grant.headers.iter().fold(request, |request, (name, value)| request.header(name, value))
    }

    fn put(&self, grant: &Grant, bytes: &[u8]) -> u16 {
        self.request(Method::PUT, &grant.url, grant).body(bytes.to_vec()).send().unwrap().status().as_u16()
    }

    /// The object of that slot, as the store's owner sees it.
    fn stored(&self, slot: u64) -> Option<Vec<u8>> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.unwrap();
        let remote = Remote::open(&self.server.settings("some/where"), runtime.handle().clone()).unwrap();
        let (machine, generation) = (self.agents[0].machine, self.agents[0].generation);
        let key = mobility_format::key::CacheKey::Slot { machine, generation, slot }.to_string();
        remote.read(&key, 1000).ok()
    }

    /// Tries everything that a grant is not for.
    fn check(&self) {
        let grants = self.agents[0].try_grants(4, Epoch(1), 1).unwrap();
        let (slot, grant) = (grants.segments[0].slot, &grants.segments[0].grant);
        assert!(matches!(self.put(grant, b"first"), 200 | 201), "the grant is no good");
        for _ in 0..2 {
            let again = self.put(grant, b"second");
            assert!(matches!(again, 403 | 409 | 412), "overwriting: {again}");
        }
        for method in [Method::DELETE, Method::GET, Method::POST] {
            let status = self.request(method.clone(), &grant.url, grant).send().unwrap().status().as_u16();
            assert!((400..500).contains(&status), "{method}: {status}");
        }
        // Without the headers, and with what else a store would take for a wish to overwrite.
        let bare = self.client.put(&grant.url).body("second").send().unwrap().status().as_u16();
        assert!((400..500).contains(&bare), "without the headers: {bare}");
        let bare = self.client.put(&grant.url).header("x-ms-blob-type", "BlockBlob").header("if-match", "*");
        let bare = bare.body("second").send().unwrap().status().as_u16();
        assert!((400..500).contains(&bare), "with other headers: {bare}");
        assert_eq!(self.stored(slot).as_deref(), Some(b"first".as_slice()));

        let (own, other) = (self.agents[0].machine.to_string(), self.agents[1].machine.to_string());
        let free = &grants.segments[1].grant;
        let slots = [&grants.segments[1], &grants.segments[2]].map(|segment| format!("{:020}", segment.slot));
        for url in [free.url.replace(&own, &other), free.url.replace(&slots[0], &slots[1])] {
            assert_ne!(url, free.url);
            let status =
                self.request(Method::PUT, &url, free).body("stray").send().unwrap().status().as_u16();
            assert!((400..500).contains(&status), "elsewhere: {status}");
        }
        assert_eq!(self.stored(grants.segments[2].slot), None);
        // And still good for what it is for.
        assert!(matches!(self.put(free, b"own"), 200 | 201));
        assert!(!self.rig.storage().join("cache").exists(), "cache storage is in the directory");
    }
}

#[test]
fn with_grants_for_s3_objects_are_created_and_nothing_else() {
    let Some(server) = Requirement::Stores.or_skip(s3()) else { return };
    World::new(server).check();
}

#[test]
fn with_grants_for_azure_objects_are_created_and_nothing_else() {
    let Some(server) = Requirement::Stores.or_skip(azurite()) else { return };
    World::new(server).check();
}
