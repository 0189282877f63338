//! Encrypted objects on the disk: what is found there, and what their keys are needed for.

use super::*;

fn with_headers<T>(input: T, headers: &[(&'static str, &str)]) -> S3Request<T> {
    let mut request = request(input);
    for (name, value) in headers {
        request.headers.insert(*name, value.parse().unwrap());
    }
    request
}

/// All bytes that are on the disk, file by file.
fn on_the_disk(folder: &Path) -> Vec<u8> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => all.extend(on_the_disk(&path)),
            false => all.extend(std::fs::read(path).unwrap()),
        }
    }
    all
}

const SECRET: &[u8] = b"a line that must not be found on the disk";

fn put_secret(key: &str, times: usize) -> PutObjectInput {
    PutObjectInput {
        bucket: BUCKET.into(),
        key: key.into(),
        body: Some(crate::read::whole(Bytes::from(SECRET.repeat(times)))),
        ..Default::default()
    }
}

#[tokio::test]
async fn what_is_encrypted_is_nowhere_on_the_disk() {
    let here = Here::new().await;
    let found = |here: &Here| {
        let all = on_the_disk(here.folder.path());
        all.windows(SECRET.len()).any(|window| window == SECRET)
    };
    let aes = [("x-amz-server-side-encryption", "AES256")];
    for (key, times) in [("small", 10), ("large", 20_000)] {
        let request = with_headers(put_secret(key, times), &aes);
        here.store.put_object(request).await.unwrap();
    }
    assert!(!found(&here));
    assert_eq!(here.read("small").await.unwrap(), SECRET.repeat(10));
    let here = here.again().await;
    assert_eq!(here.read("large").await.unwrap(), SECRET.repeat(20_000));
    let input = GetObjectInput {
        bucket: BUCKET.into(),
        key: "large".into(),
        range: Some(Range::Int {
            first: 300_000,
            last: Some(600_001),
        }),
        ..Default::default()
    };
    let mut body = here
        .store
        .get_object(request(input))
        .await
        .unwrap()
        .body
        .unwrap();
    let mut part = Vec::new();
    while let Some(piece) = body.next().await {
        part.extend(piece.unwrap());
    }
    assert_eq!(part, SECRET.repeat(20_000)[300_000..=600_001]);
    // The same bytes without a wish are found, so that the search is one.
    here.store
        .put_object(request(put_secret("open", 1)))
        .await
        .unwrap();
    assert!(found(&here));
}

#[tokio::test]
async fn without_its_master_key_all_the_rest_is_served() {
    let here = Here::new().await;
    let aes = [("x-amz-server-side-encryption", "AES256")];
    let put = |key: &str| with_headers(put_secret(key, 1), &aes);
    here.store.put_object(put("k")).await.unwrap();
    here.put("open", b"open").await;
    let key = here.folder.path().join("master.key");
    let kept = std::fs::read_to_string(&key).unwrap();
    std::fs::remove_file(&key).unwrap();
    let mut here = here;
    for why in ["isn't there", "is another key"] {
        here = here.again().await;
        assert!(
            here.store.problems()[0].contains(why),
            "{:?}",
            here.store.problems()
        );
        assert_eq!(here.read("k").await, Err("ServiceUnavailable".into()));
        assert_eq!(here.read("open").await.unwrap(), b"open");
        let refused = here.store.put_object(put("new")).await.unwrap_err();
        assert_eq!(refused.code().as_str(), "ServiceUnavailable");
        std::fs::write(&key, "00".repeat(32)).unwrap();
    }
    std::fs::write(&key, kept).unwrap();
    let here = here.again().await;
    assert!(here.store.problems().is_empty());
    assert_eq!(here.read("k").await.unwrap(), SECRET);
}

#[tokio::test]
async fn sealed_bytes_that_were_changed_are_not_served() {
    let here = Here::new().await;
    let aes = [("x-amz-server-side-encryption", "AES256")];
    let request = with_headers(put_secret("k", 20_000), &aes);
    here.store.put_object(request).await.unwrap();
    // Somebody who knows the format changes a block and its checksum, too.
    let path = here.files().pop().unwrap();
    let file = std::fs::OpenOptions::new()
        .write(true)
        .read(true)
        .open(path)
        .unwrap();
    let mut block = vec![0; crate::contents::BLOCK];
    file.read_exact_at(&mut block, 0).unwrap();
    block[7] ^= 1;
    file.write_all_at(&block, 0).unwrap();
    let sum = crate::sum::crc32c(&block).to_le_bytes();
    here.store
        .db
        .write(move |tx| {
            let mut sums: Vec<u8> = tx
                .connection
                .query_row("SELECT sums FROM contents", [], |row| row.get(0))
                .unwrap();
            sums[..4].copy_from_slice(&sum);
            tx.connection
                .execute("UPDATE contents SET sums = ?1", [sums])
                .unwrap();
            Ok(())
        })
        .await
        .unwrap();
    assert_eq!(here.read("k").await, Err("InternalError".into()));
}

#[tokio::test]
async fn a_store_of_the_first_format_opens() {
    let here = Here::new().await;
    here.put("k", b"old").await;
    let path = here.folder.path().join("objects.db");
    drop(here.store);
    {
        let db = rusqlite::Connection::open(&path).unwrap();
        db.execute_batch(
            "ALTER TABLE contents RENAME TO newer;
             CREATE TABLE contents (
                 id INTEGER PRIMARY KEY,
                 size INTEGER NOT NULL,
                 uses INTEGER NOT NULL CHECK (uses >= 0),
                 sums BLOB NOT NULL,
                 bytes BLOB
             );
             INSERT INTO contents SELECT id, size, uses, sums, bytes FROM newer;
             DROP TABLE newer;
             UPDATE meta SET format = 1;",
        )
        .unwrap();
    }
    let store = open(here.folder.path(), &here.now);
    let here = Here {
        store,
        folder: here.folder,
        now: here.now,
    };
    assert_eq!(here.read("k").await.unwrap(), b"old");
    let format = |db: &rusqlite::Connection| {
        Ok(db
            .query_row("SELECT format FROM meta", [], |row| row.get::<_, i64>(0))
            .unwrap())
    };
    assert_eq!(here.store.db.read(format).await.unwrap(), 2);
}

#[tokio::test]
async fn a_damaged_key_is_damage() {
    let here = Here::new().await;
    let aes = [("x-amz-server-side-encryption", "AES256")];
    for key in ["a", "b"] {
        let request = with_headers(put_secret(key, 1), &aes);
        here.store.put_object(request).await.unwrap();
    }
    here.store
        .db
        .write(|tx| {
            let key = [&[1_u8][..], &[0; 60]].concat();
            let change = "UPDATE contents SET key = ?1 WHERE id = 1";
            tx.connection.execute(change, [key]).unwrap();
            Ok(())
        })
        .await
        .unwrap();
    // The master key is the right one all the same.
    let here = here.again().await;
    assert!(
        here.store.problems().is_empty(),
        "{:?}",
        here.store.problems()
    );
    assert_eq!(here.read("a").await, Err("InternalError".into()));
    assert_eq!(here.read("b").await.unwrap(), SECRET);
    let checked = here.store.check(0, u64::MAX, None).await.unwrap();
    assert_eq!(checked.damaged[0].belongs_to, ["bucket/a"]);
}
