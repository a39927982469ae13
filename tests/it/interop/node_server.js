// Serves the repositories in a directory with node-git-server: server.js LIBRARY PORT DIRECTORY
const { Git } = require(process.argv[2]);
const repositories = new Git(process.argv[4], { autoCreate: false });
repositories.on('fetch', (fetch) => fetch.accept());
repositories.listen(Number(process.argv[3]), { type: 'http' });
