//! What clients ask and back-ends answer: HTTP, as little of it as proves who answered.

/// Back-ends.
pub const BACKENDS: usize = 2;
/// How requests end.
pub const REQUEST_END: &[u8] = b"\r\n\r\n";
/// Bytes of a page.
const PAGE_BYTES: usize = 128;

/// What is asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Page {
    /// A small page, after which the back-end closes.
    Last,
    /// A small page, after which more may be asked.
    Next,
    /// Bytes without end.
    Endless,
}

impl Page {
    const ALL: [Self; 3] = [Self::Last, Self::Next, Self::Endless];

    /// The request for it.
    pub const fn request(self) -> &'static [u8] {
        match self {
            Self::Last => b"GET /last HTTP/1.1\r\nHost: lab\r\nConnection: close\r\n\r\n",
            Self::Next => b"GET /next HTTP/1.1\r\nHost: lab\r\n\r\n",
            Self::Endless => b"GET /endless HTTP/1.1\r\nHost: lab\r\nConnection: close\r\n\r\n",
        }
    }

    /// What a request asks for.
    pub fn of(request: &[u8]) -> Option<Self> {
        Self::ALL.into_iter().find(|page| page.request() == request)
    }

    /// The whole answer of a back-end; of an endless one its head.
    pub fn answer(self, backend: usize) -> Vec<u8> {
        let more = match self {
            Self::Last => format!("Content-Length: {PAGE_BYTES}\r\nConnection: close\r\n"),
            Self::Next => format!("Content-Length: {PAGE_BYTES}\r\n"),
            Self::Endless => "Connection: close\r\n".to_owned(),
        };
        let head = format!("HTTP/1.1 200 OK\r\nServer: backend-{backend}\r\n{more}\r\n");
        let page = match self {
            Self::Last | Self::Next => vec![b'.'; PAGE_BYTES],
            Self::Endless => Vec::new(),
        };
        [head.into_bytes(), page].concat()
    }

    /// The answers of all back-ends.
    pub fn answers(self) -> [Vec<u8>; BACKENDS] {
        std::array::from_fn(|backend| self.answer(backend))
    }
}
