create table bonkles (id bigint primary key);
