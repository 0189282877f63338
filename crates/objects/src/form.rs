//! The name of the file in a browser's form, which s3s doesn't hand on: a key may have `${filename}` in
//! it (AWS, "POST Object").

use bytes::Bytes;
use http_body_util::BodyExt;
use s3s::Body;
use std::sync::{Arc, Mutex};

/// How much of a form may come before its file.
const HEAD_BYTES: usize = 64 << 10;

/// Filled while the form passes by.
#[derive(Clone, Default)]
pub struct FormName(Arc<Mutex<Seen>>);

#[derive(Default)]
struct Seen {
    head: Vec<u8>,
    name: Option<String>,
}

impl FormName {
    /// A text of the form with the file's name in its place.
    pub fn filled_in(&self, text: &str) -> String {
        let seen = self.0.lock().expect("no holder of this lock panics");
        match &seen.name {
            Some(name) => text.replace("${filename}", name),
            None => text.to_owned(),
        }
    }

    /// The same body, looked at on its way.
    pub fn watch(&self, body: Body) -> Body {
        let seen = self.0.clone();
        Body::http_body_unsync(body.map_frame(move |frame| {
            if let Some(data) = frame.data_ref() {
                seen.lock()
                    .expect("no holder of this lock panics")
                    .look(data);
            }
            frame
        }))
    }
}

impl Seen {
    fn look(&mut self, data: &Bytes) {
        if self.name.is_some() || self.head.len() >= HEAD_BYTES {
            return;
        }
        let room = HEAD_BYTES - self.head.len();
        self.head.extend_from_slice(&data[..data.len().min(room)]);
        self.name = file_name(&self.head);
    }
}

/// What browsers give may be a path; AWS takes what follows the last separator.
fn file_name(head: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(head);
    let (_, rest) = text.split_once("name=\"file\"; filename=\"")?;
    let (name, _) = rest.split_once("\"\r\n")?;
    let base = name.rsplit(['/', '\\']).next().unwrap_or(name);
    Some(base.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_is_found_across_pieces() {
        let form = "--b\r\nContent-Disposition: form-data; name=\"key\"\r\n\r\nup/${filename}\r\n--b\r\n\
                    Content-Disposition: form-data; name=\"file\"; filename=\"C:\\x\\a b.txt\"\r\n\r\nbytes";
        let mut seen = Seen::default();
        for piece in form.as_bytes().chunks(7) {
            seen.look(&Bytes::copy_from_slice(piece));
        }
        assert_eq!(seen.name.as_deref(), Some("a b.txt"));
        assert_eq!(file_name(b"name=\"file\"; filename=\"never ends"), None);
    }
}
