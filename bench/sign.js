// SDK-HMAC-SHA256 in nginx: the body must be in memory when the header is set (proxy_request_buffering on).
const crypto = require('crypto');

function date(r) {
    return new Date().toISOString().replace(/[-:]|\.\d+/g, '');
}

function sha256(data) {
    return crypto.createHash('sha256').update(data).digest('hex');
}

function authorization(r) {
    const when = r.variables.sdk_date, host = process.env.BENCH_HOST;
    const path = r.uri.endsWith('/') ? r.uri : r.uri + '/';
    const canonical = `${r.method}\n${path}\n\nhost:${host}\nx-sdk-date:${when}\n\nhost;x-sdk-date\n${sha256(r.requestBuffer || '')}`;
    const text = `SDK-HMAC-SHA256\n${when}\n${sha256(canonical)}`;
    const signature = crypto.createHmac('sha256', process.env.BENCH_SECRET).update(text).digest('hex');
    return `SDK-HMAC-SHA256 Access=${process.env.BENCH_KEY}, SignedHeaders=host;x-sdk-date, Signature=${signature}`;
}

export default { authorization, date };
