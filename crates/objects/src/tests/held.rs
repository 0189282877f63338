//! What buckets hold: counters, quotas, ten thousand parts, and damage in the metrics.

use super::*;

impl Here {
    /// What the counters say, and what is there.
    async fn counted(&self) -> (crate::quota::Held, crate::quota::Held) {
        let look = |db: &rusqlite::Connection| {
            let counted = crate::quota::held(db, 1)?;
            let sum = |what: &str, current: i64| {
                let sql = format!(
                    "SELECT COALESCE({what}, 0) FROM versions WHERE marker = 0 AND current = {current}"
                );
                db.query_row(&sql, [], |row| row.get(0)).unwrap()
            };
            let parts = "SELECT COALESCE(SUM(size), 0) FROM parts";
            let found = crate::quota::Held {
                objects: sum("COUNT(*)", 1),
                bytes: sum("SUM(size)", 1),
                older: sum("COUNT(*)", 0),
                older_bytes: sum("SUM(size)", 0),
                upload_bytes: db.query_row(parts, [], |row| row.get(0)).unwrap(),
            };
            Ok((counted, found))
        };
        self.store.db.read(look).await.unwrap()
    }
}

#[tokio::test]
async fn counters_say_what_is_there() {
    let here = Here::new().await;
    let same = async |here: &Here, when: &str| {
        let (counted, found) = here.counted().await;
        assert_eq!(counted, found, "{when}");
        found
    };
    for (key, len) in [("a", 10), ("b", 100_000), ("a", 20)] {
        here.put(key, &bytes(len)).await;
    }
    assert_eq!(same(&here, "puts").await.bytes, 100_020);
    here.delete("b").await;
    same(&here, "a deletion").await;
    here.store
        .set("account".into(), BUCKET.into(), |config| {
            config.versioning = Some(crate::rows::Versioning::Enabled);
        })
        .await
        .unwrap();
    for len in [1, 2, 3] {
        here.put("v", &bytes(len)).await;
    }
    assert_eq!(same(&here, "versions").await.older, 2);
    here.delete("v").await;
    assert_eq!(same(&here, "a marker").await.older, 3);
    here.put_in_parts("m", &bytes(6 << 20), 5 << 20).await;
    same(&here, "an upload in parts").await;
    let input = CreateMultipartUploadInput {
        bucket: BUCKET.into(),
        key: "open".into(),
        ..Default::default()
    };
    let upload = here
        .store
        .create_multipart_upload(request(input))
        .await
        .unwrap();
    let upload = upload.upload_id.unwrap();
    for len in [100, 300] {
        let input = UploadPartInput::builder()
            .bucket(BUCKET.into())
            .key("open".into())
            .upload_id(upload.clone())
            .part_number(1)
            .body(Some(crate::read::whole(Bytes::from(bytes(len)))))
            .build()
            .unwrap();
        here.store.upload_part(request(input)).await.unwrap();
    }
    assert_eq!(same(&here, "a part twice").await.upload_bytes, 300);
    let input = AbortMultipartUploadInput::builder()
        .bucket(BUCKET.into())
        .key("open".into())
        .upload_id(upload)
        .build()
        .unwrap();
    here.store
        .abort_multipart_upload(request(input))
        .await
        .unwrap();
    assert_eq!(same(&here, "an abort").await.upload_bytes, 0);
    // A database that had no counters gets them.
    let path = here.folder.path().join("objects.db");
    let before = same(&here, "before").await;
    drop(here.store);
    {
        let db = rusqlite::Connection::open(&path).unwrap();
        db.execute_batch("DROP TABLE usage").unwrap();
    }
    let store = open(here.folder.path(), &here.now);
    let here = Here {
        store,
        folder: here.folder,
        now: here.now,
    };
    assert_eq!(same(&here, "an upgrade").await, before);
}

#[tokio::test]
async fn quotas_bound_what_is_held() {
    let here = Here::new().await;
    let put = async |key: &str, len: usize| {
        let input = PutObjectInput {
            bucket: BUCKET.into(),
            key: key.into(),
            body: Some(crate::read::whole(Bytes::from(bytes(len)))),
            ..Default::default()
        };
        let put = here.store.put_object(request(input)).await;
        put.map(|_| ())
            .map_err(|error| error.code().as_str().to_owned())
    };
    let exceeded = Err("QuotaExceeded".to_owned());
    let most = |bytes, objects| crate::Quota { bytes, objects };
    let bound = async |quota| here.store.bound_bucket(BUCKET.into(), quota).await.unwrap();
    bound(most(Some(100), Some(2))).await;
    assert_eq!(put("a", 60).await, Ok(()));
    assert_eq!(put("b", 41).await, exceeded);
    assert_eq!(
        put("a", 100).await,
        Ok(()),
        "what it replaces doesn't count"
    );
    assert_eq!(put("b", 0).await, Ok(()));
    assert_eq!(put("c", 0).await, exceeded);
    assert_eq!(
        here.read("c").await,
        Err("NoSuchKey".into()),
        "nothing is left of it"
    );
    here.delete("a").await;
    assert_eq!(put("c", 100).await, Ok(()));
    bound(most(None, None)).await;
    let account = "account".to_owned();
    here.store
        .bound_account(account.clone(), most(Some(150), None))
        .await
        .unwrap();
    assert_eq!(put("d", 51).await, exceeded);
    assert_eq!(put("d", 50).await, Ok(()));
    here.store
        .bound_account(account, most(None, None))
        .await
        .unwrap();
    assert_eq!(put("e", 100_000).await, Ok(()));
    let missing = here
        .store
        .bound_bucket("none".into(), most(None, None))
        .await;
    assert_eq!(missing.unwrap_err().code().as_str(), "NoSuchBucket");
}

#[tokio::test]
async fn damage_is_named_in_the_metrics() {
    let here = Here::new().await;
    here.put("k", &bytes(200_000)).await;
    let metrics = here.store.metrics().await.unwrap();
    assert!(metrics.contains("boira_bucket_objects{bucket=\"bucket\",account=\"account\"} 1"));
    assert!(!metrics.contains("boira_object_damaged{"));
    let file = std::fs::OpenOptions::new()
        .write(true)
        .open(here.files().pop().unwrap())
        .unwrap();
    file.write_all_at(b"!", 5).unwrap();
    assert_eq!(here.read("k").await, Err("InternalError".into()));
    let named = "boira_object_damaged{object=\"bucket/k\"} 1";
    assert!(here.store.metrics().await.unwrap().contains(named));
    here.put("k", &bytes(200_000)).await;
    assert!(
        !here.store.metrics().await.unwrap().contains(named),
        "it was replaced"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_parts_of_next_to_nothing() {
    let here = Here::new().await;
    let input = CreateMultipartUploadInput {
        bucket: BUCKET.into(),
        key: "k".into(),
        ..Default::default()
    };
    let upload = here
        .store
        .create_multipart_upload(request(input))
        .await
        .unwrap();
    let upload = upload.upload_id.unwrap();
    let part = |number: i32| {
        UploadPartInput::builder()
            .bucket(BUCKET.into())
            .key("k".into())
            .upload_id(upload.clone())
            .part_number(number)
            .body(Some(crate::read::whole(Bytes::from(vec![
                number as u8;
                (number % 2)
                    as usize
            ]))))
            .build()
            .unwrap()
    };
    let mut tags = Vec::new();
    for first in (1..=10_000).step_by(250) {
        let sent = (first..first + 250).map(|number| here.store.upload_part(request(part(number))));
        let sent = futures_util::future::join_all(sent.collect::<Vec<_>>()).await;
        tags.extend(sent.into_iter().map(|part| part.unwrap().e_tag));
    }
    let refused = here
        .store
        .upload_part(request(part(10_001)))
        .await
        .unwrap_err();
    assert_eq!(refused.code().as_str(), "InvalidArgument");
    let (mut listed, mut marker) = (0, None);
    loop {
        let input = ListPartsInput::builder()
            .bucket(BUCKET.into())
            .key("k".into())
            .upload_id(upload.clone())
            .part_number_marker(marker)
            .build()
            .unwrap();
        let page = here.store.list_parts(request(input)).await.unwrap();
        listed += page.parts.unwrap().len();
        marker = page.next_part_number_marker;
        if page.is_truncated != Some(true) {
            break;
        }
    }
    assert_eq!(listed, 10_000);
    let complete = |numbers: std::ops::RangeInclusive<usize>| {
        let parts = numbers.map(|number| CompletedPart {
            e_tag: tags[number - 1].clone(),
            part_number: Some(number as i32),
            ..Default::default()
        });
        let parts = Some(parts.collect());
        CompleteMultipartUploadInput::builder()
            .bucket(BUCKET.into())
            .key("k".into())
            .upload_id(upload.clone())
            .multipart_upload(Some(CompletedMultipartUpload { parts }))
            .build()
            .unwrap()
    };
    let all = here
        .store
        .complete_multipart_upload(request(complete(1..=10_000)))
        .await;
    assert_eq!(all.unwrap_err().code().as_str(), "EntityTooSmall");
    let one = here
        .store
        .complete_multipart_upload(request(complete(9_999..=9_999)))
        .await;
    assert!(one.is_ok());
    assert_eq!(here.read("k").await.unwrap(), [9_999_i32 as u8]);
    let (counted, found) = here.counted().await;
    assert_eq!((counted, counted.upload_bytes), (found, 0));
}
